"""A tiny vision-language model from scratch says where a shape moves: time and accuracy.

    python bench/motion.py                  # two minutes on two cores

MP4 files of a second in which a square or a disc moves left or right over noise, and rows ("Left or
right?"); a random tenth is held out. ``swift sft`` trains a LLaVA of random weights on four frames of
each, tower and all; ``swift infer`` answers the held-out rows.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np

from scratch import held_out, learn, tiny

SIZE, FRAMES, RATE = 32, 12, 12


def frames(random: np.random.Generator, left: bool) -> np.ndarray:
    """A shape on its way: uint8 (F, H, W, 3)."""
    y, begin = random.uniform(8, SIZE - 8), random.uniform(7, 11)
    way = begin + np.linspace(0, random.uniform(8, 14), FRAMES)
    colour, half = random.integers(120, 256, 3), random.uniform(4, 7)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    norm = 2 if random.random() < 0.5 else np.inf  # a disc or a square
    film = random.integers(0, 60, (FRAMES, SIZE, SIZE, 3))
    for picture, x in zip(film, SIZE - way if left else way, strict=True):
        offsets = np.stack([rows - y, columns - x])
        picture[np.linalg.norm(offsets, norm, axis=0) < half] = colour
    return film.astype(np.uint8)


def write(path: Path, film: np.ndarray) -> None:
    """An MP4 file."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for picture in film:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())


def rows_in(folder: Path, count: int, seed: int) -> list[dict[str, object]]:
    """A row for each film."""
    random = np.random.default_rng(seed)
    (folder / "mp4").mkdir()
    rows: list[dict[str, object]] = []
    for number in range(count):
        left = bool(random.random() < 0.5)
        write(folder / "mp4" / f"{number}.mp4", frames(random, left))
        answer = "left" if left else "right"
        rows.append({"video": f"mp4/{number}.mp4", "text": "Left or right?", "answer": answer})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny.save_vision_checkpoint(folder / "model")
        files = held_out(folder, rows_in(folder, args.films, args.seed))
        print(
            learn(
                folder, model, files, "--num_train_epochs", args.epochs, "--fps", 4,
                "--per_device_train_batch_size", 16, rate=args.rate,
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
