"""Memory does not grow with the rows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from chat.templates import FAMILIES

PREPARE = """
import pickle, sys
from pathlib import Path
from swift.config.data import ConversationsSection
from swift.data.prepare import Workshop, prepare
spec = pickle.loads(Path(sys.argv[1]).read_bytes())
section = ConversationsSection(train=[sys.argv[2]])
found = prepare(Workshop(section, spec, "chat", 512, Path(sys.argv[3]), Path), section.train)
# not ru_maxrss: that begins with the peak of the process that started this one
lines = Path("/proc/self/status").read_text().splitlines()
peak_kb = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
print(len(found.train), int(peak_kb) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux' /proc")
def test_ten_times_the_rows_take_less_than_60_mb_more(tmp_path: Path) -> None:
    spec = tmp_path / "spec"
    spec.write_bytes(pickle.dumps(FAMILIES["chatml"].renderer().spec))
    peaks = []
    for count in (20_000, 200_000):
        file = tmp_path / f"{count}.jsonl"
        with file.open("w") as rows:
            rows.writelines(f'{{"query": "{i}", "response": "yes"}}\n' for i in range(count))
        command = [sys.executable, "-c", PREPARE, spec, file, tmp_path / f"tokens-{count}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        samples, peak_mb = map(int, done.stdout.split())
        assert samples == count
        peaks.append(peak_mb)
    assert peaks[1] - peaks[0] < 60, peaks
