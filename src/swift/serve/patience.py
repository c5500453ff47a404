"""Connections that send half a head of a request and no more are closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Patience(H11Protocol):
    """uvicorn's protocol with an end to its patience: itself it waits for ever for a head."""

    header_timeout_s = 20.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

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


def patient(header_timeout_s: float) -> type[H11Protocol]:
    """The protocol with a time for the head of each request."""
    return type("Patience", (Patience,), {"header_timeout_s": header_timeout_s})
