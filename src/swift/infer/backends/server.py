"""An inference server as a process of ours: started, watched, and ended with us."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx

from swift.errors import ConfigError, ServerError

_LAST = 15  # lines of its log that an error shows
_WATCH = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child's to obey
def watch():
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
os._exit(child.wait() & 0xFF)
"""
"""Runs beside the server. Its input ends when we do, whatever ended us; then it ends the server."""


class Server:
    """One process, with all that it starts; its output goes to a log."""

    def __init__(
        self,
        words: Sequence[str],
        url: str,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        health: str = "/health",
        socket: Path | None = None,
    ) -> None:
        """Start it; :meth:`wait` says when it is ready.

        Args:
            words: the command.
            url: where it will answer.
            log: file for its output.
            environment: variables beside ours.
            health: path that answers 200 once it is ready.
            socket: a Unix socket where it will answer, in place of the url's port.

        Raises:
            ConfigError: the program does not exist.
        """
        self.url, self.log, self.socket, self._health = url, log, socket, health
        if shutil.which(words[0]) is None:
            raise ConfigError(
                f"--engine_python: {words[0]} cannot be run: there is no such program"
            )
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WATCH, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # so that it can be ended with all its children
            )
        atexit.register(self.close)

    def wait(self, limit_s: float, say: Callable[[str], None]) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it ended, or took too long; with the last lines of its log.
        """
        begun = said = time.monotonic()
        while not self._ready():
            now = time.monotonic()
            if self._process.poll() is not None:
                raise ServerError(
                    f"the server ended with code {self._process.returncode} before it was ready; "
                    f"{self.log} ends with\n{self.tail()}"
                )
            if now - begun > limit_s:
                self.close()
                raise ServerError(
                    f"the server was not ready after {limit_s:g} seconds; {self.log} ends with\n"
                    f"{self.tail()}"
                )
            if now - said > 10:
                said = now
                lines = self.tail().splitlines()
                say(f"  waiting for the server ({now - begun:.0f} s): {lines[-1] if lines else ''}")
            time.sleep(0.2)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def client(self) -> httpx.Client:
        """What asks it, by paths."""
        way = None if self.socket is None else httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(base_url=self.url, transport=way, timeout=2)

    def _ready(self) -> bool:
        try:
            with self.client() as client:
                return client.get(self._health).status_code == 200
        except httpx.TransportError:
            return False

    def tail(self) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            text = self.log.read_bytes()[-20_000:].decode(errors="replace")
            return "\n".join(text.splitlines()[-_LAST:])
        return ""

    def close(self) -> None:
        """End it and all that it started; asked first, made to after ten seconds."""
        atexit.unregister(self.close)
        for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
                break
        with suppress(ProcessLookupError):  # what outlived its parent
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
