"""Commands of ``swift`` in processes of their own that start at once and can be killed.

A fork server has everything imported already, so a run of a tiny model takes a second or two
instead of eight.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["processes_preload"])

TIMEOUT_S = 240


def _main(words: list[str], environment: dict[str, str], folder: str, output: str) -> None:
    os.environ.update(environment)
    # a process made by a fork server would start its own helpers by another one
    multiprocessing.set_start_method(environment.get("START_METHOD", "fork"), force=True)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from swift.cli import main

    code = main(words)
    sys.stdout.flush()
    os._exit(code)


@dataclass
class Command:
    """A command under way, as one or several processes."""

    processes: list[multiprocessing.Process]
    output: Path

    def wait(self) -> int:
        """The exit code of the first process that failed, else 0."""
        end = time.monotonic() + TIMEOUT_S
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                self.kill()
                raise TimeoutError(self.text())
        codes = [process.exitcode or 0 for process in self.processes]
        return next((code for code in codes if code), 0)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to every process (SIGKILL: and see them gone)."""
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.join()

    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until something is the case, or the command has ended."""
        end = time.monotonic() + TIMEOUT_S
        while not condition() and self.alive():
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(self.text())
            time.sleep(0.001)


@cache
def _serve() -> None:
    """Start the fork server where it finds what to import: it does not get our ``sys.path``."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


_count = 0


def start(words: Sequence[object], folder: Path, processes: int = 1, **environment: str) -> Command:
    """Start a command in a folder."""
    global _count
    _count += 1
    _serve()
    output = folder / f"output-{_count}.txt"
    output.touch()
    base = {"OMP_NUM_THREADS": "1", "SWIFT_CACHE": os.environ["SWIFT_CACHE"], **environment}
    started = []
    port = str(_free_port())
    for rank in range(processes):
        place = {}
        if processes > 1:
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        arguments = ([str(word) for word in words], {**base, **place}, str(folder), str(output))
        process = _CONTEXT.Process(target=_main, args=arguments)
        process.start()
        started.append(process)
    return Command(started, output)


def run(words: Sequence[object], folder: Path, processes: int = 1, **environment: str) -> str:
    """Run a command to its end; its output. Fails when the command does."""
    command = start(words, folder, processes, **environment)
    code = command.wait()
    assert code == 0, f"exit code {code}\n{command.text()}"
    return command.text()


def fail(words: Sequence[object], folder: Path, **environment: str) -> tuple[int, str]:
    """Run a command that must fail; its exit code and output."""
    command = start(words, folder, **environment)
    code = command.wait()
    assert code != 0, command.text()
    assert "Traceback" not in command.text(), command.text()
    return code, command.text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def deployed(place: Path, *words: object, **environment: str) -> Iterator[tuple[str, str, Command]]:
    """A server: its address, what it said before, the process."""
    command = start(["deploy", "--port", 0, *words], place, **environment)
    try:
        command.wait_for(lambda: "(Ctrl-C ends)" in command.text())
        said, _, rest = command.text().partition("serving ")
        assert rest, said
        yield rest.split(" at ")[1].split()[0], said, command
    finally:
        command.kill()
