"""Arrays that were made of media, kept under a name: some in memory, on request all on disk.

Both have a bound in bytes, and what was not used for longest goes first. A folder may be shared by
any number of processes: a file is written whole or not at all, and only while a lock is held.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from swift.errors import ResourceError

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

_ENDING = ".safetensors"
_HEADER = 4096  # bytes of a file beside its arrays, at most, for the few names there are


class Memory:
    """The arrays that were used last, up to a number of bytes; for several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._kept: OrderedDict[str, Arrays] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def get(self, name: str) -> Arrays | None:
        """What is kept under a name; None: nothing."""
        with self._one_at_a_time:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep arrays, unless they alone are more than may be kept."""
        size = size_of(arrays)
        with self._one_at_a_time:
            if size > self.most or name in self._kept:
                return
            self._kept[name] = arrays
            self.used += size
            while self.used > self.most:
                _, oldest = self._kept.popitem(last=False)
                self.used -= size_of(oldest)


class Folder:
    """Arrays in files, up to a number of bytes over all of them.

    The sum is counted once and then carried in a file beside them, under the lock; so no process
    counts the files that another one writes.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self.most = most
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / "lock")
            with self._lock:
                self._note(self._make_room(0))
        except OSError as error:
            raise _cannot(path, error) from None

    def get(self, name: str) -> Arrays | None:
        """What is kept under a name; None: nothing, or a file that is cut off."""
        file = self.path / f"{name}{_ENDING}"
        try:
            found = load_file(file)
            os.utime(file)
        except (OSError, SafetensorError):
            return None
        return found

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep arrays, unless they alone are more than may be kept.

        Raises:
            ResourceError: they cannot be written.
        """
        size = size_of(arrays) + _HEADER
        if size > self.most:
            return
        file = self.path / f"{name}{_ENDING}"
        part = file.with_suffix(".part")
        try:
            with self._lock:
                used = self._noted()
                if used + size > self.most:
                    used = self._make_room(size)
                save_file({key: np.ascontiguousarray(one) for key, one in arrays.items()}, part)
                before = file.stat().st_size if file.exists() else 0
                used += part.stat().st_size - before
                part.replace(file)
                self._note(used)
        except OSError as error:
            raise _cannot(self.path, error) from None

    def _noted(self) -> int:
        return int((self.path / "bytes").read_text() or 0)

    def _note(self, used: int) -> None:
        (self.path / "bytes").write_text(str(used))

    def _make_room(self, size: int) -> int:
        """Remove the files that were not used for longest; bytes of those that stay.

        Where there is not enough room a tenth more is made, so that not every new file asks.
        """
        files = []
        for entry in os.scandir(self.path):
            if entry.name.endswith(".part"):  # of a process that was killed: we hold the lock
                os.unlink(entry)
            elif entry.name.endswith(_ENDING):
                about = entry.stat()
                files.append((about.st_mtime_ns, about.st_size, entry.path))
        used = sum(bytes for _, bytes, _ in files)
        if used + size <= self.most:
            return used
        for _, bytes, path in sorted(files):
            if used + size <= self.most - self.most // 10 or not used:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            used -= bytes
        return used


def size_of(arrays: Arrays) -> int:
    """Bytes of arrays."""
    return sum(array.nbytes for array in arrays.values())


def _cannot(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{path}: prepared media cannot be kept there: {error.strerror}; make room, or leave out "
        "--media_cache"
    )
