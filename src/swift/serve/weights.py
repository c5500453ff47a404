"""New weights on their way in, and who may use an engine while they are put in place."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import torch

from swift.errors import DataError
from swift.infer.parts import Piece, unpack
from swift.serve.refused import Refused

IDLE_S = 30.0
"""Seconds without a part after which an update counts as given up."""


@dataclass
class Incoming:
    """An update under way; nothing of it lives before it is whole."""

    id: str
    version: str
    parts: int = 0  # that are here
    at_s: float = field(default_factory=time.monotonic)  # when the last one came
    _pieces: dict[str, list[Piece]] = field(default_factory=dict)

    def take(self, number: int, part: bytes) -> None:
        """Keep a part; one that is sent again (its answer was lost, say) is kept once.

        Raises:
            Refused: one before it is missing, or it cannot be read.
        """
        if number > self.parts:
            raise Refused(400, f"number: {number}, but {self.parts} parts are here", param="number")
        if number < self.parts:
            return
        try:
            pieces = unpack(part)
        except DataError as error:
            raise Refused(400, str(error), code="invalid_weights") from None
        for piece in pieces:
            self._pieces.setdefault(piece.name, []).append(piece)
        self.parts += 1
        self.at_s = time.monotonic()

    def whole(self, parts: int) -> dict[str, torch.Tensor]:
        """The tensors by name, once all is here.

        Raises:
            Refused: parts are missing, or a tensor is not whole.
        """
        if parts != self.parts:
            raise Refused(400, f"parts: {parts}, but {self.parts} are here", param="parts")
        return {name: _joined(pieces) for name, pieces in self._pieces.items()}


def _joined(pieces: list[Piece]) -> torch.Tensor:
    shape, at = pieces[0].shape, 0
    for piece in pieces:
        if piece.start != at or piece.shape != shape:
            raise Refused(400, f"{piece.name}: its pieces do not fit", code="invalid_weights")
        at += len(piece.values)
    if at != math.prod(shape):
        raise Refused(400, f"{pieces[0].name}: it is not whole", code="invalid_weights")
    values = [piece.values for piece in pieces]
    return (values[0] if len(values) == 1 else torch.cat(values)).reshape(shape)


class Turns:
    """Many use the engine at once, or one changes it; who wants to change it is next."""

    def __init__(self) -> None:
        self._users, self._changers = 0, 0
        self._changing = asyncio.Lock()
        self._free = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Use it with others."""
        async with self._free:
            await self._free.wait_for(lambda: not self._changers)
            self._users += 1
        try:
            yield
        finally:
            async with self._free:
                self._users -= 1
                self._free.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Have it alone, once all that use it have ended."""
        self._changers += 1
        try:
            async with self._changing:
                async with self._free:
                    await self._free.wait_for(lambda: not self._users)
                yield
        finally:
            self._changers -= 1
            async with self._free:
                self._free.notify_all()
