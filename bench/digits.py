"""A tiny vision-language model from scratch reads handwritten digits: time and accuracy.

    pip install scikit-learn
    python bench/digits.py                  # about a minute on two cores

scikit-learn's 1,797 digits become PNG files and rows ("Which digit is this?"); a random tenth is held
out. ``swift sft`` trains a LLaVA of 0.1 million random weights, tower and all; ``swift infer``
answers the held-out rows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from scratch import held_out, learn, tiny

WORDS = "zero one two three four five six seven eight nine".split()


def rows_in(folder: Path, seed: int) -> list[dict[str, object]]:
    """A row for each picture, in a random order."""
    digits = load_digits()
    (folder / "png").mkdir()
    rows: list[dict[str, object]] = []
    for i in np.random.default_rng(seed).permutation(len(digits.images)):
        pixels = (digits.images[i] / 16 * 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)
        image.convert("RGB").save(folder / "png" / f"{i}.png")
        answer = WORDS[digits.target[i]]
        rows.append({"image": f"png/{i}.png", "text": "Which digit is this?", "answer": answer})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--packing", action="store_true")
    args = parser.parse_args()
    layout: list[object] = ["--per_device_train_batch_size", 16]
    if args.packing:
        layout = ["--packing", "true", "--packing_length", 720]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny.save_vision_checkpoint(folder / "model")
        files = held_out(folder, rows_in(folder, args.seed))
        print(learn(folder, model, files, "--num_train_epochs", args.epochs, *layout))


if __name__ == "__main__":
    main()
