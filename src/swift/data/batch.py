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

_NOTHING = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Axes: T positions, N learned tokens, S segments (see :class:`Pack`), Q
    sequences, Y labels, B rows, L longest.

    ``packed``: tensors are (1, T), segments end to end. Otherwise (B, L), padded on the right, for
    architectures that cannot keep packed samples apart.
    """

    tokens: torch.Tensor  # int64 (1, T) or (B, L)
    positions: torch.Tensor  # int64, as tokens
    learned_N: torch.Tensor  # int64: positions that predict, in the flattened tokens
    targets_N: torch.Tensor  # int64
    weights_N: torch.Tensor  # float32
    starts_S: torch.Tensor  # int32 (S + 1): borders of the segments; the last one is T
    bounds: tuple[int, ...]  # the same as plain numbers
    weight: float  # what the micro-batch counts for: the sum of weights_N, or its samples
    count: int  # positions of samples, without filling and padding
    packed: bool
    places: tuple[str, ...]
    media: Mapping[str, torch.Tensor] = field(default_factory=dict)  # as the model names them
    parents: tuple[int, ...] = ()  # the segment that each goes on from; empty: there is none
    sequence_N: torch.Tensor = _NOTHING  # int64: the sequence of each learned token
    ends_Q: torch.Tensor = _NOTHING  # int64: the last position of every sequence
    labels: torch.Tensor = _NOTHING  # float32 (Y): those of all samples
    sample_Q: torch.Tensor = _NOTHING  # int64: the sample of every sequence
    sample_Y: torch.Tensor = _NOTHING  # int64: the sample of every label
    reference_N: torch.Tensor | None = None  # float32: log-probabilities under another model
    beside: Batch | None = None  # what is read with it, and not learned

    @property
    def longest(self) -> int:
        """Positions of the longest segment."""
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
        beside = self.beside._each(change) if self.beside else None
        return replace(self, media=media, beside=beside, **tensors)  # type: ignore[arg-type]


def batch(
    pack: Pack,
    *,
    packed: bool = True,
    features: Features | None = None,
    types: Types | None = None,
    weight: float | None = None,
    beside: Batch | None = None,
) -> Batch:
    """Make tensors of a pack.

    Args:
        pack: samples end to end.
        packed: leave them so; else one padded row each.
        features: what the model reads for the media of the pack.
        types: what the model reads of every token of the samples, end to end.
        weight: what it counts for. Default: the sum of its weights.
        beside: what is read with it, and not learned.
    """
    bounds = tuple(int(start) for start in pack.starts_S)
    tokens, positions = pack.tokens_T[None], pack.positions_T[None]
    learned, ends = pack.learned_N, pack.ends_Q
    place: Any = (0, slice(pack.count))
    if not packed:
        lengths = np.diff(pack.starts_S)
        longest = int(lengths.max())
        row = np.repeat(np.arange(len(lengths)), lengths)
        tokens = np.zeros((len(lengths), longest), np.int64)
        tokens[row, pack.positions_T] = pack.tokens_T
        place = (row[: pack.count], pack.positions_T[: pack.count])
        positions = np.tile(np.arange(longest), (len(lengths), 1))
        place_T = row * longest + pack.positions_T
        learned, ends = place_T[learned], place_T[ends]
    media = dict(features or {})
    for name, values in (types or {}).items():
        media[name] = np.zeros(tokens.shape, np.int64)
        media[name][place] = values
    own = float(pack.weights_N.astype(np.float64).sum())
    reference = pack.reference_N
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens)),
        positions=torch.from_numpy(np.ascontiguousarray(positions)),
        learned_N=torch.from_numpy(learned),
        targets_N=torch.from_numpy(pack.targets_N),
        weights_N=torch.from_numpy(pack.weights_N),
        starts_S=torch.from_numpy(pack.starts_S.copy()),
        bounds=bounds,
        weight=own if weight is None else weight,
        count=pack.count,
        packed=packed,
        places=pack.places,
        media={name: torch.from_numpy(value) for name, value in media.items()},
        parents=pack.parents if pack.branches else (),
        sequence_N=torch.from_numpy(pack.sequence_N),
        ends_Q=torch.from_numpy(ends),
        labels=torch.from_numpy(pack.labels),
        sample_Q=torch.from_numpy(pack.sample_Q),
        sample_Y=torch.from_numpy(pack.sample_Y),
        reference_N=None if reference is None else torch.from_numpy(reference),
        beside=beside,
    )
