"""Weights on their way to another process: safetensors files of bounded size, one after the other.

A tensor lies flat in a part, or in several where it is larger than one; ``__metadata__`` has its
shape, and where in it the piece begins. So the size of a part has nothing to do with that of a
tensor, and a server can bound what it reads at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from swift.errors import DataError

_HEAD = 1 << 16  # bytes that a part's names and shapes may take beside its tensors
_TOGETHER = 200  # tensors of a part, so that they do not take more


@dataclass(frozen=True)
class Piece:
    """Some of the numbers of a tensor."""

    name: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int  # of the first number, in the flat tensor
    values: torch.Tensor  # (n,)


def pack(weights: Iterable[tuple[str, torch.Tensor]], size: int) -> Iterator[bytes]:
    """Weights as parts of at most ``size`` bytes, a few names and shapes aside."""
    room = max(size - _HEAD, 1 << 10)
    waiting: list[Piece] = []
    held = 0
    for name, tensor in weights:
        flat = tensor.detach().cpu().contiguous().flatten()
        most = room // flat.element_size()
        for start in range(0, max(len(flat), 1), most):
            piece = Piece(name, tuple(tensor.shape), start, flat[start : start + most])
            taken = len(piece.values) * flat.element_size()
            if waiting and (held + taken > room or len(waiting) == _TOGETHER):
                yield _part(waiting)
                waiting, held = [], 0
            waiting.append(piece)
            held += taken
    if waiting:
        yield _part(waiting)


def _part(pieces: list[Piece]) -> bytes:
    said = {piece.name: json.dumps([list(piece.shape), piece.start]) for piece in pieces}
    return save({piece.name: piece.values for piece in pieces}, said)


def unpack(part: bytes) -> list[Piece]:
    """The pieces of a part.

    Raises:
        DataError: it is not what :func:`pack` makes.
    """
    try:
        tensors = load(part)
        head = json.loads(part[8 : 8 + int.from_bytes(part[:8], "little")])
        found = []
        for name, values in tensors.items():
            shape, start = json.loads(head["__metadata__"][name])
            piece = Piece(name, tuple(map(int, shape)), int(start), values)
            if values.dim() != 1 or piece.start < 0 or min(piece.shape, default=0) < 0:
                raise ValueError(name)
            if piece.start + len(values) > math.prod(piece.shape):
                raise ValueError(name)
            found.append(piece)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"a part of the weights cannot be read: {error!r}") from None
    return found
