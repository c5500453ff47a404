"""An engine that is a server which we start, and end with :meth:`StartedEngine.close`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from swift.errors import ServerError
from swift.infer.backends.client import Address
from swift.infer.backends.dialects import Dialect
from swift.infer.backends.served import ServedEngine
from swift.infer.backends.server import Server
from swift.infer.engine import Completion, Request

NAME = "model"  # what a server calls the model


class StartedEngine(ServedEngine):
    """Generates on a server in an environment and a process of its own."""

    def __init__(
        self,
        title: str,
        dialect: Dialect,
        words: Sequence[str],
        place: int | Path,
        log: Path,
        say: Callable[[str], None],
        *,
        environment: Mapping[str, str] | None = None,
        context: int | None = None,
        start_s: float = 600.0,
    ) -> None:
        """Start the server and wait for it.

        Args:
            title: its name for people.
            dialect: its kind.
            words: the command.
            place: where it will answer: a port of this machine, or a Unix socket.
            log: file for the server's output.
            say: told how it goes.
            environment: variables beside ours.
            context: most tokens of prompt and answer.
            start_s: most seconds until it is ready.

        Raises:
            ConfigError, ServerError: it cannot be started.
        """
        socket = place if isinstance(place, Path) else None
        url = "http://localhost" if socket else f"http://127.0.0.1:{place}"
        say(f"starting {title}; its log: {log}")
        self._title = title
        self.server = Server(words, url, log, environment=environment, socket=socket)
        try:
            self.server.wait(start_s, say)
        except BaseException:
            self.server.close()
            raise
        super().__init__(Address(url, socket=socket), dialect, NAME, context)

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`; a server that has died is said to have."""
        try:
            return super().generate(requests, on_token)
        except ServerError as error:
            if self.server.alive:
                raise
            raise ServerError(
                f"{self._title} has ended; {self.server.log} ends with\n{self.server.tail()}"
            ) from error

    def close(self) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        self.server.close()
