"""What is kept of media: whole, within its bound, by several processes at once."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from swift.chat.media.keep import Arrays, Folder, Memory
from swift.errors import ResourceError

KIB = 1024


def arrays(seed: int, size: int = 16 * KIB) -> Arrays:
    values = np.random.default_rng(seed).integers(0, 255, size - 8, dtype=np.uint8)
    return {"pixels": values, "ids": np.array([seed], np.int64)}


def same(found: Arrays | None, expected: Arrays) -> bool:
    return found is not None and all((found[name] == expected[name]).all() for name in expected)


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def test_memory_forgets_what_was_not_used_for_longest() -> None:
    memory = Memory(3 * 16 * KIB)
    for number in range(3):
        memory.put(str(number), arrays(number))
    assert same(memory.get("0"), arrays(0))
    memory.put("3", arrays(3))
    assert memory.get("1") is None and memory.used == 3 * 16 * KIB
    assert all(same(memory.get(str(number)), arrays(number)) for number in (0, 2, 3))
    memory.put("big", arrays(4, 64 * KIB))
    assert memory.get("big") is None and memory.get("0") is not None


def test_a_folder_stays_within_its_bound(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 100 * KIB)
    for number in range(40):
        folder.put(str(number), arrays(number))
        os.utime(tmp_path / f"{number}.safetensors", (number, number))
        assert on_disk(tmp_path) <= 100 * KIB
        if number:
            assert folder.get("0") is not None, "it is used all the time"
    assert same(folder.get("39"), arrays(39)) and folder.get("20") is None
    assert int((tmp_path / "bytes").read_text()) == on_disk(tmp_path)
    folder.put("39", arrays(39))  # as another process may have done meanwhile
    assert int((tmp_path / "bytes").read_text()) == on_disk(tmp_path)


def test_a_smaller_bound_and_what_a_killed_process_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path, 1000 * KIB)
    for number in range(10):
        folder.put(str(number), arrays(number))
    (tmp_path / "9.part").write_bytes(b"x" * 500)
    (tmp_path / "bytes").write_text("7")
    (tmp_path / "5.safetensors").write_bytes(b"cut off")
    again = Folder(tmp_path, 60 * KIB)
    assert on_disk(tmp_path) <= 60 * KIB and not (tmp_path / "9.part").exists()
    assert again.get("5") is None
    again.put("5", arrays(5))
    assert same(again.get("5"), arrays(5))


def _fill(path: Path, first: int) -> None:
    folder = Folder(path, 150 * KIB)
    for number in range(first, first + 30):
        folder.put(str(number % 40), arrays(number % 40))
        assert on_disk(path) <= 150 * KIB
        found = folder.get(str(number % 37))
        assert found is None or same(found, arrays(number % 37))


def test_processes_share_a_folder(tmp_path: Path) -> None:
    processes = [
        get_context("fork").Process(target=_fill, args=(tmp_path, 10 * i)) for i in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert int((tmp_path / "bytes").read_text()) == on_disk(tmp_path) <= 150 * KIB


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="leave out --media_cache"):
        Folder(tmp_path / "file", KIB)
