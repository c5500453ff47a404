"""Connections that send half a head of a request and no more, or one without end, are closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEAD = 1 << 16  # bytes, beside those that came with the last of a body


class Patience(HttpToolsProtocol):
    """uvicorn's protocol with bounds: itself it waits for ever for a head, however long."""

    header_timeout_s = 20.0
    _late: asyncio.TimerHandle | None = None
    _head = 0  # bytes that came without being a body or the end of a head

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._head += len(data)
        super().data_received(data)
        if self._head > _MOST_HEAD:
            self.transport.close()
        self._watch()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._head = 0
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a head is awaited; it is not set back by a byte more."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._late is None:
            self._late = self.loop.call_later(self.header_timeout_s, self._close)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def patient(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """The protocol with a time for the head of each request."""
    return type("Patience", (Patience,), {"header_timeout_s": header_timeout_s})
