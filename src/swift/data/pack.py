"""Samples laid end to end: borders, positions, and the shift by one, which happens here, once.

Axes: T positions of a pack, S samples in it.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.data.sample import Sample

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pack:
    """Samples end to end. Position t reads ``tokens_T[t]`` and predicts ``targets_T[t]``."""

    tokens_T: Array  # int64
    targets_T: Array  # int64
    weights_T: Array  # float32: how much the prediction of the target counts; 0: not learned
    positions_T: Array  # int64: place in its own sample
    starts_S: Array  # int32: first position of every sample; and one more, T
    places: tuple[str, ...]  # the row of every sample


def pack(samples: Sequence[Sample]) -> Pack:
    """Lay samples end to end. A sample of L tokens takes L - 1 positions: its last one is only
    predicted. No samples at all make one position that counts for nothing.
    """
    if not samples:
        nothing = np.zeros(1, np.int64)
        starts = np.array([0, 1], np.int32)
        return Pack(nothing, nothing, np.zeros(1, np.float32), nothing, starts, ())
    lengths = np.array([len(sample.tokens) - 1 for sample in samples])
    return Pack(
        np.concatenate([sample.tokens[:-1] for sample in samples]).astype(np.int64),
        np.concatenate([sample.tokens[1:] for sample in samples]).astype(np.int64),
        np.concatenate([sample.weights[1:] for sample in samples]).astype(np.float32),
        np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        tuple(sample.place for sample in samples),
    )


def best_fit(lengths: Array, capacity: int) -> list[Array]:
    """Group samples so that each group's positions fit into ``capacity``, with little left over.

    Best-fit decreasing: the longest sample first, each into the group with the least room that
    still takes it (Johnson 1973: at most 11/9 of the fewest groups possible). The same lengths
    always give the same groups.

    Args:
        lengths: tokens of every sample.
        capacity: positions of a pack; a longer sample gets one of its own.

    Returns:
        Arrays of sample indices, each in ascending order.
    """
    order = np.argsort(-lengths, kind="stable")
    room: list[int] = []  # the distinct amounts of room left, ascending
    groups_by_room: dict[int, list[int]] = {}
    groups: list[list[int]] = []
    for i in order.tolist():
        need = int(lengths[i]) - 1
        at = bisect_left(room, need)
        if at < len(room):
            left = room[at]
            group = heapq.heappop(groups_by_room[left])
            if not groups_by_room[left]:
                del groups_by_room[left], room[at]
            groups[group].append(i)
        else:
            left, group = capacity, len(groups)
            groups.append([i])
        left -= need
        if left > 0:
            if left not in groups_by_room:
                insort(room, left)
                groups_by_room[left] = []
            heapq.heappush(groups_by_room[left], group)
    return [np.sort(np.array(group)) for group in groups]
