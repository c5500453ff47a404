"""From rows to the accuracy of what was learned from them, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import tiny

__all__ = ["Result", "held_out", "learn", "swift", "tiny"]


class Result(NamedTuple):
    """What was reached on the held-out rows, and the seconds of both commands."""

    accuracy: float
    answers: int
    sft_s: float
    infer_s: float

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.3f} on {self.answers} held-out rows; "
            f"swift sft {self.sft_s:.0f} s, swift infer {self.infer_s:.0f} s"
        )


def swift(folder: Path, *words: object) -> float:
    """Run a command; its seconds."""
    settings = {**os.environ, "OMP_NUM_THREADS": "2", "SWIFT_CACHE": str(folder / "cache")}
    begun = time.monotonic()
    command = [sys.executable, "-m", "swift", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - begun


def held_out(folder: Path, rows: list[dict[str, object]]) -> tuple[Path, Path]:
    """Files of the rows to learn from, and of the first tenth, which is held out."""
    held = len(rows) // 10
    return (
        tiny.write_rows(folder / "train.jsonl", rows[held:]),
        tiny.write_rows(folder / "test.jsonl", rows[:held]),
    )


def learn(
    folder: Path, model: Path, files: tuple[Path, Path], *words: object, rate: float = 2e-3
) -> Result:
    """Train all of a tiny model and ask it.

    Args:
        folder: of the files.
        model: random weights.
        files: rows to learn from, and rows that are held out.
        words: further flags of ``swift sft``.
        rate: of learning, at its peak.
    """
    train, test = files
    sft_s = swift(
        folder, "sft", "--model", model, "--dataset", train, "--tuner_type", "full",
        "--freeze_vit", "false", "--freeze_aligner", "false",
        "--gradient_accumulation_steps", 1, "--max_length", 256, "--report_to", "none",
        "--save_strategy", "no", "--output_dir", "run", "--learning_rate", rate, *words,
    )  # fmt: skip
    [checkpoint] = (folder / "run").glob("checkpoint-*")
    infer_s = swift(
        folder, "infer", "--model", checkpoint, "--val_dataset", test, "--result_path",
        "answers.jsonl", "--max_new_tokens", 8, "--max_batch_size", 32,
    )  # fmt: skip
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    right = sum(line["response"] == line["labels"] for line in answers)
    return Result(right / len(answers), len(answers), sft_s, infer_s)
