"""Pieces that another thread puts into a queue, as a caller's event loop takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from swift.infer.engine import Piece

Pieces = asyncio.Queue[Piece | Exception]


async def drained(pieces: Pieces) -> AsyncIterator[Piece]:
    """The pieces of one answer to its end; an exception among them is raised."""
    while True:
        piece = await pieces.get()
        if isinstance(piece, Exception):
            raise piece
        yield piece
        if piece.finish_reason is not None:
            return
