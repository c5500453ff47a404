"""A tiny audio-language model from scratch names spoken digits: time and accuracy.

    apt-get install espeak-ng
    python bench/spoken.py                  # two minutes on two cores

eSpeak NG says the ten digits in many voices, speeds and pitches, in noise: WAV files and rows ("Which
digit is said?"); a random tenth is held out. ``swift sft`` trains a Qwen2-Audio of random weights,
tower and all; ``swift infer`` answers the held-out rows.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from digits import WORDS
from scratch import held_out, learn, tiny

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-029")
VOICES = (*(f"m{i}" for i in range(1, 9)), *(f"f{i}" for i in range(1, 6)))


def say(word: str, random: np.random.Generator) -> tuple[np.ndarray, int]:
    """A word in a random voice, with noise of a hundredth of its power."""
    voice = f"{random.choice(ACCENTS)}+{random.choice(VOICES)}"
    speed, pitch = random.integers(140, 220), random.integers(25, 75)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    noise = random.normal(0, 0.1 * float(np.std(samples)), len(samples))
    return samples + noise.astype(np.float32), rate


def rows_in(folder: Path, count: int, seed: int) -> list[dict[str, object]]:
    """A row for each clip; the digits come in a random order."""
    random = np.random.default_rng(seed)
    (folder / "wav").mkdir()
    rows: list[dict[str, object]] = []
    for number in range(count):
        word = str(random.choice(WORDS))
        soundfile.write(folder / "wav" / f"{number}.wav", *say(word, random))
        rows.append({"audio": f"wav/{number}.wav", "text": "Which digit is said?", "answer": word})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny.save_audio_checkpoint(folder / "model")
        files = held_out(folder, rows_in(folder, args.clips, args.seed))
        print(
            learn(
                folder, model, files, "--num_train_epochs", args.epochs,
                "--per_device_train_batch_size", 16, rate=args.rate,
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
