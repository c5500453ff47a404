"""A tiny vision-language model from scratch reads handwritten digits: time and accuracy.

    pip install scikit-learn
    python bench/digits.py                  # about a minute on two cores

scikit-learn's 1,797 digits become PNG files and rows ("Which digit is this?"); a random tenth is held
out. ``swift sft`` trains a LLaVA of 0.1 million random weights, tower and all; ``swift infer``
answers the held-out rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import tiny

WORDS = "zero one two three four five six seven eight nine".split()


def write(folder: Path, seed: int) -> tuple[Path, Path]:
    """The rows to learn from, and the tenth that is held out."""
    digits = load_digits()
    (folder / "png").mkdir()
    rows = []
    for i in np.random.default_rng(seed).permutation(len(digits.images)):
        pixels = (digits.images[i] / 16 * 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)
        image.convert("RGB").save(folder / "png" / f"{i}.png")
        answer = WORDS[digits.target[i]]
        rows.append({"image": f"png/{i}.png", "text": "Which digit is this?", "answer": answer})
    held = len(rows) // 10
    return (
        tiny.write_rows(folder / "train.jsonl", rows[held:]),
        tiny.write_rows(folder / "test.jsonl", rows[:held]),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--packing", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny.save_vision_checkpoint(folder / "model")
        train, test = write(folder, args.seed)
        layout = ["--per_device_train_batch_size", 16]
        if args.packing:
            layout = ["--packing", "true", "--packing_length", 720]
        seconds = swift(
            folder, "sft", "--model", model, "--dataset", train, "--tuner_type", "full",
            "--freeze_vit", "false", "--freeze_aligner", "false", "--learning_rate", 2e-3, *layout,
            "--gradient_accumulation_steps", 1, "--num_train_epochs", args.epochs, "--max_length",
            128, "--report_to", "none", "--save_strategy", "no", "--output_dir", "run",
        )  # fmt: skip
        [checkpoint] = (folder / "run").glob("checkpoint-*")
        asked = swift(
            folder, "infer", "--model", checkpoint, "--val_dataset", test, "--result_path",
            "answers.jsonl", "--max_new_tokens", 8, "--max_batch_size", 32,
        )  # fmt: skip
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        right = sum(line["response"] == line["labels"] for line in answers)
    print(
        f"accuracy {right / len(answers):.3f} on {len(answers)} held-out digits; "
        f"swift sft {seconds:.0f} s, swift infer {asked:.0f} s"
    )


if __name__ == "__main__":
    main()
