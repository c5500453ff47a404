"""Answers learned from in an hour: GRPO of ours and of TRL, and where the time goes.

The same model, prompts, reward function, group, batch and threads; each contender in a process of
its own, in turn, several times over. Reported are medians over rounds of the steps behind the first.

    python bench/policy_speed.py --trl /path/to/trl/bin/python [--model smollm2 --new 64 ...]

Without ``--model`` it is the model of bench/grpo.py: sums, from about 150,000 weights, all of which
learn. With one, an adapter of rank 16 learns. Environment of TRL: see bench/sft.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHOWN = ("rollout", "reward", "update")


def right(completions: list[Any], solution: list[str], **_: Any) -> list[float]:
    """1 for an answer that begins with the solution."""
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    pairs = zip(texts, solution, strict=True)
    return [float(text.strip().startswith(value)) for text, value in pairs]


def swift_seconds(args: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of every step of ours, as its metrics have them."""
    import torch

    from swift import registry
    from swift.config.runs import RlhfConfig
    from swift.parallel.world import World
    from swift.recipes import grpo

    torch.set_num_threads(1)
    registry.register("reward", "right", f"{Path(__file__).stem}:right")
    config = RlhfConfig.model_validate(
        {
            "model": {"path": args.model, "dtype": "float32"},
            "tuner": {"kind": "lora", "rank": 16} if args.rank else "full",
            "data": {"train": [args.rows], "processes": 1},
            "optimizer": {"kind": "adamw", "learning_rate": 1e-5},
            "schedule": "constant",
            "train": {"batch_size": args.batch, "accumulation": 1, "max_steps": args.steps,
                      "log_every": 1, "save": "no", "gradient_checkpointing": False},
            "rlhf": {"kind": "grpo", "beta": 0.0},
            "rollout": {"num_generations": args.group, "max_completion_length": args.new},
            "reward": {"funcs": ["right"]},
            "report": "none",
            "output": args.output,
        }
    )  # fmt: skip
    grpo.run(config, World())
    metrics = next(Path(args.output).rglob("metrics.jsonl"))
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    found = []
    for line in lines:
        step = line["train/learned_answers"] / line["train/learned_answers_per_s"]
        parts = {part: line[f"train/{part}_s"] for part in SHOWN[:2]}
        length = line["train/completion_length"] * args.batch
        found.append({"step": step, **parts, "length": length})
    return found


def trl_seconds(args: argparse.Namespace) -> list[dict[str, float]]:
    """The same of TRL's trainer, with its own generation."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)

    class Watched(GRPOTrainer):
        """Notes how long its own parts take."""

        spent: dict[str, float]

        def _generate(self, *given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            found = super()._generate(*given, **named)
            self.spent["rollout"] += time.perf_counter() - begun
            return found

        def _calculate_rewards(self, *given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            found = super()._calculate_rewards(*given, **named)
            self.spent["reward"] += time.perf_counter() - begun
            return found

    steps: list[dict[str, float]] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            trainer.spent = {"rollout": 0.0, "reward": 0.0}
            self.begun = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append({"step": time.perf_counter() - self.begun, **trainer.spent, "length": 0.0})

        def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
            if steps and "completions/mean_length" in logs:
                steps[-1]["length"] = logs["completions/mean_length"] * args.batch

    lines = [json.loads(line) for line in Path(args.rows).read_text().splitlines()]
    rows = [{"prompt": row["messages"], "solution": row["solution"]} for row in lines]
    settings = GRPOConfig(
        args.output, per_device_train_batch_size=args.batch, gradient_accumulation_steps=1,
        max_steps=args.steps, num_generations=args.group, max_completion_length=args.new,
        learning_rate=1e-5, lr_scheduler_type="constant", beta=0.0, loss_type="grpo",
        report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if args.rank else None
    trainer = Watched(
        AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        args=settings, reward_funcs=right, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(args.model, padding_side="left"),
        peft_config=adapter, callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    return steps


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Model and rows, for both the same."""
    from grpo import sums, warm_model

    data = sums(4000, 0)
    if args.model is None:
        warm_model(folder / "model", data[:1000], 0, 400)
        args.model, args.rank = str(folder / "model"), 0
    args.rows = str(folder / "rows.jsonl")
    kept = [{"messages": row["messages"], "solution": row["solution"]} for row in data[1000:]]
    Path(args.rows).write_text("".join(json.dumps(row) + "\n" for row in kept))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a folder; an adapter learns")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--new", type=int, default=6, help="tokens of an answer, at most")
    parser.add_argument("--batch", type=int, default=128, help="answers of a step")
    parser.add_argument("--group", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--steps", type=int, default=20, help="the first is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", help="a Python that has TRL")
    parser.add_argument("--only", choices=["swift", "trl"])
    parser.add_argument("--rows")
    parser.add_argument("--output")
    return parser.parse_args()


def ask(args: argparse.Namespace, name: str, python: str, output: str) -> list[dict[str, float]]:
    """The steps of one contender, in a process of its own."""
    words = [python, __file__, "--only", name, "--output", output]
    for option in ("model", "rank", "new", "batch", "group", "steps", "rows"):
        words += [f"--{option}", str(getattr(args, option))]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run every contender in turn, and print the medians."""
    args = parse()
    if args.only:
        print(json.dumps(swift_seconds(args) if args.only == "swift" else trl_seconds(args)))
        return
    contenders = {"swift": sys.executable, "trl": args.trl}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders if contenders[name]}
    with tempfile.TemporaryDirectory() as name:
        prepare(args, Path(name))
        for number in range(args.rounds):
            for contender, steps in found.items():
                output = f"{name}/{contender}-{number}"
                steps += ask(args, contender, contenders[contender], output)[1:]
    print(f"{'':<8}{'answers/h':>12}{'tokens':>10}" + "".join(f"{part:>12}" for part in SHOWN))
    for contender, steps in found.items():
        step = statistics.median(one["step"] for one in steps)
        parts = {part: statistics.median(one[part] for one in steps) for part in SHOWN[:2]}
        parts["update"] = step - sum(parts.values())
        tokens = statistics.fmean(one["length"] for one in steps)
        shares = "".join(f"{parts[part] * 1000:>9.0f} ms" for part in SHOWN)
        print(f"{contender:<8}{args.batch / step * 3600:>12,.0f}{tokens:>10.0f}{shares}")


if __name__ == "__main__":
    main()
