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

from swift.chat.message import Media
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
    count: int  # positions of samples, without filling
    places: tuple[str, ...]  # the row of every sample
    media: tuple[tuple[Media, ...], ...] = ()  # those of every sample


def pack(samples: Sequence[Sample], multiple: int = 1) -> Pack:
    """Lay samples end to end.

    Args:
        samples: one of L tokens takes L - 1 positions: its last token is only predicted.
        multiple: of positions that the pack is filled up to, with one more sample that counts for
            nothing; so it is also when there are no samples at all.
    """
    lengths = [len(sample.tokens) - 1 for sample in samples]
    total = sum(lengths)
    filling = -total % multiple if total else multiple
    spans = [*lengths, filling] if filling else lengths
    nothing = np.zeros(filling, np.int64)
    return Pack(
        np.concatenate([*(sample.tokens[:-1] for sample in samples), nothing]).astype(np.int64),
        np.concatenate([*(sample.tokens[1:] for sample in samples), nothing]).astype(np.int64),
        np.concatenate([*(sample.weights[1:] for sample in samples), nothing]).astype(np.float32),
        np.concatenate([np.arange(span) for span in spans]).astype(np.int64),
        np.concatenate([[0], np.cumsum(spans)]).astype(np.int32),
        total,
        tuple(sample.place for sample in samples),
        tuple(sample.media for sample in samples),
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
