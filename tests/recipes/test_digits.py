"""Handwritten digits as PNG files are learned from scratch; those that were held out are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from processes import run

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write(folder: Path) -> None:
    """scikit-learn's 1,797 digits, a tenth of them held out."""
    digits: Any = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_digits()
    (folder / "png").mkdir()
    rows = []
    for i in np.random.default_rng(0).permutation(len(digits.images)):
        pixels = (digits.images[i] / 16 * 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)
        image.save(folder / "png" / f"{i}.png")
        answer = WORDS[digits.target[i]]
        rows.append({"image": f"png/{i}.png", "text": "Which digit is this?", "answer": answer})
    held = len(rows) // 10
    tiny.write_rows(folder / "train.jsonl", rows[held:])
    tiny.write_rows(folder / "test.jsonl", rows[:held])


@pytest.mark.slow
def test_digits_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    model = tiny.save_vision_checkpoint(tmp_path / "model")
    words = ["sft", "--model", model, "--dataset", "train.jsonl", "--tuner_type", "full",
             "--freeze_vit", "false", "--freeze_aligner", "false", "--learning_rate", 2e-3,
             "--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 1,
             "--num_train_epochs", 5, "--max_length", 128, "--report_to", "none",
             "--save_strategy", "no", "--output_dir", "run"]  # fmt: skip
    run(words, tmp_path)
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*")
    words = ["infer", "--model", checkpoint, "--val_dataset", "test.jsonl", "--result_path",
             "answers.jsonl", "--max_new_tokens", 8, "--max_batch_size", 32]  # fmt: skip
    run(words, tmp_path)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 179
    assert np.mean([line["response"] == line["labels"] for line in answers]) >= 0.9
