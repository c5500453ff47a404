"""Code of a model, run where it can do no harm.

It runs in a process of its own that can

- open no socket and reach no network (seccomp; and a network namespace where the kernel gives one),
- start no other process and signal none (seccomp), so nothing outlives it,
- write only into a folder of its own, which is removed, and read only that and Python (Landlock),
- use so much memory, time, output, so many files and threads and no more (limits of the kernel).

Linux on x86-64 or ARM64 with Landlock (5.13) is needed; elsewhere :func:`run` refuses. It is no
virtual machine: a hole in the kernel is a hole in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from swift.errors import ResourceError

Ending = Literal["done", "failed", "time", "output"]


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    time_s: float = 10.0  # by the clock
    memory_mib: int = 512  # address space, threads' stacks included
    output_bytes: int = 1 << 20  # of both streams together
    file_mib: int = 16  # of one file
    files: int = 64  # open at a time


@dataclass(frozen=True)
class Ran:
    """What became of a program."""

    ending: Ending  # done: exit code 0; failed: any other end; time, output: a limit ended it
    code: int  # exit code; negative: the signal that ended it
    output: str  # both streams, cut at the limit
    holds: dict[str, bool]  # which protections were in place


def run(
    source: str,
    stdin: str = "",
    limits: Limits = Limits(),
    arguments: Sequence[str] = (),
) -> Ran:
    """Run Python source.

    Args:
        source: the program.
        stdin: what it reads.
        limits: what it may use.
        arguments: of the program.

    Raises:
        ResourceError: this machine cannot keep it in.
    """
    with tempfile.TemporaryDirectory(prefix="swift-sandbox-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "main.py").write_text(source, encoding="utf-8", errors="replace")
        (Path(folder) / ".stdin").write_text(stdin, encoding="utf-8", errors="replace")
        read, write = os.pipe()
        settings = {
            "folder": folder, "arguments": ["main.py", *arguments], "readable": _readable(),
            "memory_bytes": limits.memory_mib << 20, "cpu_s": int(limits.time_s) + 1,
            "file_bytes": limits.file_mib << 20, "files": limits.files, "report": write,
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", "-B", str(Path(__file__).with_name("confine.py"))]
        with (Path(folder) / ".stdin").open("rb") as given:
            process = subprocess.Popen(
                [*command, json.dumps(settings)],
                stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
                env={}, pass_fds=[write], start_new_session=True, close_fds=True,
            )  # fmt: skip
        os.close(write)
        try:
            ending, output = _watch(process, limits)
        finally:
            _end(process)
        holds = json.loads(os.read(read, 4096) or b"{}")
        os.close(read)
    if not (holds.get("seccomp") and holds.get("landlock")):
        missing = ", ".join(name for name in ("seccomp", "landlock") if not holds.get(name))
        raise ResourceError(
            f"this machine cannot keep a model's code in ({missing} is missing; {output.strip()}); "
            "rewards that run code need Linux 5.13 or later on x86-64 or ARM64"
        )
    code = process.returncode
    return Ran(ending or ("done" if code == 0 else "failed"), code, output, holds)


@cache
def _readable() -> list[str]:
    """What Python itself needs to read."""
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path}
    paths |= {os.path.dirname(os.path.realpath(sys.executable))}
    system = {"/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"}
    wide = {"", "/", str(Path.home()), tempfile.gettempdir(), os.getcwd()}
    return sorted({os.path.realpath(path) for path in paths - wide} | system)


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> tuple[Ending | None, str]:
    """Read until it ends or passes a limit: (the limit, the output)."""
    assert process.stdout is not None
    end = time.monotonic() + limits.time_s
    parts: list[bytes] = []
    size, ending = 0, None
    while ending is None:
        left = end - time.monotonic()
        if left <= 0:
            ending = "time"
        elif select.select([process.stdout], [], [], left)[0]:
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                ending = _wait(process, end)
                break
            parts.append(part[: limits.output_bytes - size])
            size += len(part)
            if size > limits.output_bytes:
                ending = "output"
    return ending, b"".join(parts).decode("utf-8", "replace")  # type: ignore[return-value]


def _wait(process: subprocess.Popen[bytes], end: float) -> str | None:
    """A program may close its output and go on."""
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "time"
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
