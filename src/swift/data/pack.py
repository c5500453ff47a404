"""Samples laid end to end: borders, positions, and the shift by one, which happens here, once.

Axes: T positions of a pack, S segments in it, N learned tokens, Q sequences, Y labels.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from swift.chat.message import Media
from swift.data.sample import Sample

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pack:
    """Samples end to end.

    A segment is a run of tokens. It begins a text, or goes on from the end of its parent: then what
    several sequences begin with alike is read once.
    """

    tokens_T: Array  # int64
    positions_T: Array  # int64: place in its own sequence
    starts_S: Array  # int32: first position of every segment; and one more, T
    parents: tuple[int, ...]  # the segment that each goes on from; -1: none
    learned_N: Array  # int64: positions that predict a token which is learned ...
    targets_N: Array  # int64: ... that token ...
    weights_N: Array  # float32: ... how much it counts ...
    sequence_N: Array  # int64: ... and the sequence it is in
    ends_Q: Array  # int64: the last position of every sequence
    reference_N: Array | None  # float32: log-probabilities under another model, if known
    labels: Array  # float32 (Y): those of all samples
    sample_Q: Array  # int64: the sample of every sequence
    sample_Y: Array  # int64: the sample of every label
    count: int  # positions of samples, without filling
    places: tuple[str, ...]  # the row of every sample
    media: tuple[tuple[Media, ...], ...] = ()  # those of every sample

    @property
    def branches(self) -> bool:
        """Whether any segment goes on from another."""
        return any(parent >= 0 for parent in self.parents)

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Where each segment of samples begins and ends."""
        spans = pairwise(self.starts_S.tolist())
        return [(start, stop) for start, stop in spans if stop <= self.count]

    def lead(self, start: int, stop: int) -> int:
        """Tokens of a segment before the first that is learned."""
        learned = self.learned_N[(self.learned_N >= start) & (self.learned_N < stop)]
        return int(learned[0]) + 1 - start if len(learned) else stop - start


def pack(
    samples: Sequence[Sample],
    multiple: int = 1,
    *,
    share: bool = False,
    whole: bool = False,
    padding: int | None = None,
) -> Pack:
    """Lay samples end to end.

    Args:
        samples: one of L tokens takes L - 1 positions: its last token is only predicted.
        multiple: of positions that the pack is filled up to, with one more segment that counts for
            nothing; so it is also when there are no samples at all.
        share: what the sequences of a sample begin with alike is laid once.
        whole: the last token is read too, for what is asked of it.
        padding: with ``whole``, a token that is not read at the end.
    """
    laid = _Laid()

    def read(tokens: Array) -> int:
        """How many tokens of a sequence are read."""
        if not whole:
            return len(tokens) - 1
        content = np.flatnonzero(tokens != padding) if padding is not None else np.zeros(0)
        return int(content[-1]) + 1 if len(content) else len(tokens)

    for sample in samples:
        sequences = sample.sequences
        lengths = [read(tokens) for tokens, _ in sequences]
        laid.add(sequences, lengths, share=share and not sample.media)
    count = laid.size
    if filling := -count % multiple if count else multiple:
        laid.segment(np.zeros(filling, np.int64), 0, -1)
    reference = [sample.reference for sample in samples if sample.reference is not None]
    return Pack(
        np.concatenate(laid.tokens).astype(np.int64),
        np.concatenate(laid.positions).astype(np.int64),
        np.array(laid.starts, np.int32),
        tuple(laid.parents),
        _joined(laid.learned, np.int64),
        _joined(laid.targets, np.int64),
        _joined(laid.weights, np.float32),
        np.repeat(np.arange(len(laid.learned)), [len(part) for part in laid.learned]),
        np.array(laid.ends, np.int64),
        _joined(reference, np.float32) if reference else None,
        np.array([label for sample in samples for label in sample.labels], np.float32),
        _owners([len(sample.parts) or 1 for sample in samples]),
        _owners([len(sample.labels) for sample in samples]),
        count,
        tuple(sample.place for sample in samples),
        tuple(sample.media for sample in samples),
    )


class _Laid:
    """What is laid so far."""

    def __init__(self) -> None:
        self.tokens: list[Array] = []  # of every segment
        self.positions: list[Array] = []
        self.starts = [0]
        self.parents: list[int] = []
        self.learned: list[Array] = []  # of every sequence
        self.targets: list[Array] = []
        self.weights: list[Array] = []
        self.ends: list[int] = []

    @property
    def size(self) -> int:
        """Positions taken."""
        return self.starts[-1]

    def segment(self, tokens: Array, first: int, parent: int) -> int:
        """Lay a segment whose first token has the position ``first``; returns its number."""
        self.tokens.append(tokens)
        self.positions.append(np.arange(first, first + len(tokens)))
        self.starts.append(self.size + len(tokens))
        self.parents.append(parent)
        return len(self.parents) - 1

    def add(self, sequences: list[tuple[Array, Array]], lengths: list[int], *, share: bool) -> None:
        """Lay the sequences of a sample, so much of each."""
        common = _alike([tokens for tokens, _ in sequences], min(lengths)) if share else 0
        trunk_at, trunk = self.size, -1
        if common:
            trunk = self.segment(sequences[0][0][:common], 0, -1)
        for (tokens, weights), length in zip(sequences, lengths, strict=True):
            at = self.size - common  # where its first token would be, were nothing shared
            if length > common or not common:
                self.segment(tokens[common:length], common, trunk)
            learned = np.flatnonzero(weights[1 : length + 1])
            self.learned.append(np.where(learned < common, trunk_at, at) + learned)
            self.targets.append(tokens[1:][learned])
            self.weights.append(weights[1:][learned])
            self.ends.append((at if length > common else trunk_at) + length - 1)


def _alike(sequences: list[Array], most: int) -> int:
    """How many tokens several sequences begin with alike, up to ``most``; 0 where there is one."""
    if len(sequences) < 2:
        return 0
    first = sequences[0][:most]
    same = np.logical_and.reduce([first == other[:most] for other in sequences[1:]])
    return most if same.all() else int(np.argmin(same))


def _owners(counts: list[int]) -> Array:
    """The number of the sample that each of its things is of."""
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64)


def _joined(arrays: list[Array], kind: Any) -> Array:
    return np.concatenate(arrays).astype(kind) if arrays else np.zeros(0, kind)


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
