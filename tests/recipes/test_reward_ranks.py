"""A reward model says which of two answers is better where it has seen neither."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import tiny
from processes import run

KIND = ["gladly", "surely", "of course", "with pleasure"]
RUDE = ["never", "go away", "no way", "why me"]
WORDS = [
    "red",
    "green",
    "old",
    "new",
    "small",
    "big",
    "stone",
    "river",
    "cloud",
    "lamp",
    "door",
    "tree",
    "bird",
    "road",
]


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """Answers of random words, one of them with something kind in the middle."""
    draw = random.Random(seed)

    def said(tone: list[str]) -> str:
        words = draw.choices(WORDS, k=draw.randint(2, 6))
        words.insert(draw.randrange(len(words)), draw.choice(tone))
        return " ".join(words) + "."

    def pair() -> dict[str, object]:
        asked = {"role": "user", "content": " ".join(draw.choices(WORDS, k=4)) + "?"}
        better = {"role": "assistant", "content": said(KIND)}
        return {"messages": [asked, better], "rejected_response": said(RUDE)}

    return [pair() for _ in range(count)]


@pytest.mark.slow
def test_pairs_held_out_are_ranked(checkpoint: Path, tmp_path: Path) -> None:
    learned, held = rows(256, 0), rows(100, 1)
    run(
        [
            "rlhf", "--rlhf_type", "rm", "--model", checkpoint, "--tuner_type", "full",
            "--dataset", tiny.write_rows(tmp_path / "pairs.jsonl", learned),
            "--val_dataset", tiny.write_rows(tmp_path / "held.jsonl", held),
            "--learning_rate", "2e-3", "--per_device_train_batch_size", 16, "--max_steps", 60,
            "--gradient_accumulation_steps", 1, "--eval_steps", 60, "--torch_dtype", "float32",
            "--report_to", "none", "--output_dir", "judge",
        ],
        tmp_path,
    )  # fmt: skip
    lines = (tmp_path / "judge/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    judged = [line["eval/rewards/accuracies"] for line in found if "eval/loss" in line]
    assert judged[-1] >= 0.9  # chance is 0.5
