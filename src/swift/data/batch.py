"""A pack as tensors on the device that learns from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from swift.chat.media.marks import Features
from swift.chat.media.types import Types
from swift.data.pack import Pack


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Axes: T positions, N learned positions, S samples, B rows, L longest.

    ``packed``: tensors are (1, T), samples end to end. Otherwise (B, L), padded on the right, for
    architectures that cannot keep packed samples apart.
    """

    tokens: torch.Tensor  # int64 (1, T) or (B, L)
    positions: torch.Tensor  # int64, as tokens
    learned_N: torch.Tensor  # int64: learned positions, in the flattened tokens
    targets_N: torch.Tensor  # int64
    weights_N: torch.Tensor  # float32
    starts_S: torch.Tensor  # int32 (S + 1): borders of the samples; the last one is T
    bounds: tuple[int, ...]  # the same as plain numbers
    weight: float  # sum of weights_N: what the micro-batch counts for
    count: int  # positions of samples, without filling and padding
    packed: bool
    places: tuple[str, ...]
    media: Mapping[str, torch.Tensor] = field(default_factory=dict)  # as the model names them

    @property
    def longest(self) -> int:
        """Positions of the longest sample."""
        return max(b - a for a, b in zip(self.bounds, self.bounds[1:], strict=False))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; called by torch's loader."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors = {n: change(v) for n, v in self.__dict__.items() if isinstance(v, torch.Tensor)}
        media = {name: change(tensor) for name, tensor in self.media.items()}
        return replace(self, media=media, **tensors)  # type: ignore[arg-type]


def batch(
    pack: Pack,
    *,
    packed: bool = True,
    features: Features | None = None,
    types: Types | None = None,
) -> Batch:
    """Make tensors of a pack.

    Args:
        pack: samples end to end.
        packed: leave them so; else one padded row each.
        features: what the model reads for the media of the pack.
        types: what the model reads of every token of the samples, end to end.
    """
    bounds = tuple(int(start) for start in pack.starts_S)
    learned = np.flatnonzero(pack.weights_T)
    tokens, positions, where = pack.tokens_T[None], pack.positions_T[None], learned
    place: Any = (0, slice(pack.count))
    if not packed:
        lengths = np.diff(pack.starts_S)
        longest = int(lengths.max())
        row = np.repeat(np.arange(len(lengths)), lengths)
        tokens = np.zeros((len(lengths), longest), np.int64)
        tokens[row, pack.positions_T] = pack.tokens_T
        place = (row[: pack.count], pack.positions_T[: pack.count])
        positions = np.tile(np.arange(longest), (len(lengths), 1))
        where = (row * longest + pack.positions_T)[learned]
    media = dict(features or {})
    for name, values in (types or {}).items():
        media[name] = np.zeros(tokens.shape, np.int64)
        media[name][place] = values
    weights = pack.weights_T[learned]
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens)),
        positions=torch.from_numpy(np.ascontiguousarray(positions)),
        learned_N=torch.from_numpy(where.astype(np.int64)),
        targets_N=torch.from_numpy(pack.targets_T[learned]),
        weights_N=torch.from_numpy(weights),
        starts_S=torch.from_numpy(pack.starts_S.copy()),
        bounds=bounds,
        weight=float(weights.astype(np.float64).sum()),
        count=pack.count,
        packed=packed,
        places=pack.places,
        media={name: torch.from_numpy(value) for name, value in media.items()},
    )
