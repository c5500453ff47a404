"""Do preferences take hold? SmolLM2-135M and 20 pairs of short and long answers, by four methods.

    python bench/preferences.py [--kinds dpo kto orpo simpo] [--output FOLDER]

Each is `swift rlhf` with an adapter of rank 16 on 16 pairs, 4 held out; its curves are drawn into
its folder, as every run's are. What is printed comes from its metrics.jsonl.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {
    "dpo": [],
    "kto": ["--dataset", "examples/data/judged_answers.jsonl", "--beta", "0.1",
            "--per_device_train_batch_size", "8", "--metric_for_best_model", "loss"],
    "orpo": ["--beta", "0.1", "--num_train_epochs", "10"],
    "simpo": ["--beta", "2.0", "--simpo_gamma", "1.0", "--num_train_epochs", "10"],
}  # fmt: skip
SHOWN = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def run(kind: str, output: Path) -> tuple[list[dict[str, float]], float]:
    """The lines of a run's metrics, and how long it took."""
    words = [sys.executable, "-m", "swift", "rlhf", "examples/dpo.yaml", "--rlhf_type", kind]
    words += ["--output_dir", str(output), *SETTINGS[kind]]
    begun = time.perf_counter()
    subprocess.run(words, check=True, stdout=sys.stderr)
    metrics = max(output.rglob("metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return lines, time.perf_counter() - begun


def main() -> None:
    """Run every method, and print where it began and ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--output", type=Path, default=Path("output/preferences"))
    args = parser.parse_args()
    for kind in args.kinds:
        lines, seconds = run(kind, args.output / kind)
        print(f"RESULT {kind}, {seconds:.0f} s")
        for group in ("train", "eval"):
            own = [line for line in lines if f"{group}/loss" in line]
            for name in SHOWN:
                values = [line[f"{group}/{name}"] for line in own if f"{group}/{name}" in line]
                if values:
                    print(f"  {group:<6}{name:<20}{values[0]:>9.4f} -> {values[-1]:>9.4f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
