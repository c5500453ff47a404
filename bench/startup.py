"""How long help takes to appear, against TRL and ms-swift: medians of several starts in turn.

python bench/startup.py --trl /path/to/trl/bin/trl --ms-swift /path/to/ms-swift/bin/swift
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(words: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(
        words, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", help="trl command of an environment with TRL")
    parser.add_argument("--ms-swift", help="swift command of an environment with ms-swift")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    swift = str(Path(sys.executable).with_name("swift"))
    commands = {"swift": [swift, "--help"], "swift sft": [swift, "sft", "--help"]}
    if args.trl:
        commands |= {"TRL": [args.trl, "--help"], "TRL sft": [args.trl, "sft", "--help"]}
    if args.ms_swift:  # it has no help of its own without a command
        commands |= {"ms-swift sft": [args.ms_swift, "sft", "--help"]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.repeats + 1):
        for name, words in commands.items():
            found[name].append(seconds(words))
    print("| `--help` of | seconds |\n|---|---|")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times[1:]):.2f} |")


if __name__ == "__main__":
    main()
