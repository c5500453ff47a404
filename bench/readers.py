"""Every kind of data file: rows a second, and the memory that reading it takes.

    python bench/readers.py                 # 200,000 rows of about 600 bytes

One process a kind reads the whole file through ``swift.data.source``; memory is the most that it
holds for itself (without pages of files) at the end of a block, above what it held before.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

import conversations

READ = """
import sys, time
from pathlib import Path
import numpy, psutil, pyarrow.parquet
from swift.data.source import open_sources, read

def held():
    info = psutil.Process().memory_info()
    return (info.rss - info.shared) / 1e6

sources, before, begun, rows, most = open_sources([sys.argv[1]], Path), held(), time.perf_counter(), 0, 0
for block in read(sources, 1):
    rows, most = rows + len(block.rows), max(most, held())
print(rows, time.perf_counter() - begun, most - before)
"""


def write(rows: int, folder: Path) -> list[Path]:
    chance = random.Random(rows)
    pieces = [conversations.text(chance, chance.randint(20, 60)) for _ in range(2000)]
    made = [
        {"query": f"{i}: {chance.choice(pieces)}", "response": chance.choice(pieces)}
        for i in range(rows)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in made).encode()
    table = pa.Table.from_pylist(made)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.json").write_text(json.dumps(made))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines, 6))
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(lines, 1))
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(lines, preset=1))
    (folder / "a.jsonl.zst").write_bytes(pa.Codec("zstd").compress(lines, asbytes=True))
    pq.write_table(table, folder / "a.parquet", row_group_size=10_000)
    with (
        pa.OSFile(str(folder / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=1000)
    with (folder / "a.csv").open("w", newline="") as file:
        import csv

        rows_out = csv.DictWriter(file, ["query", "response"])
        rows_out.writeheader()
        rows_out.writerows(made)
    return sorted(folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{'file':<14}{'MB':>8}{'rows/s':>12}{'memory MB':>12}")
        for path in write(parser.parse_args().rows, Path(scratch)):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
            )
            rows, seconds, memory = map(float, done.stdout.split())
            size = path.stat().st_size / 1e6
            print(f"{path.name:<14}{size:>8.0f}{rows / seconds:>12,.0f}{memory:>12.0f}")


if __name__ == "__main__":
    main()
