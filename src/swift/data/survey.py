"""Samples as a whole (lengths, doubles, cuts), and single ones token by token, for people to see.

Axes: S samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from swift.chat.render import Renderer
from swift.data.sample import Samples
from swift.data.seen import Seen, see
from swift.data.stream import Order

Array = np.ndarray[Any, Any]

_BARS = 16  # of a histogram, at most
_LISTED = 300  # doubles and cuts that are written out; all are counted
_PLACES = 10  # of samples with the same tokens
_WIDTHS = (1, 2, 5)  # of a bar, times a power of ten


@dataclass(frozen=True)
class Bar:
    """How many samples have from ``low`` to ``high`` tokens."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Cut:
    """A sample that is a part of a longer one: tokens ``start`` up to ``stop`` of ``whole``."""

    place: str
    start: int
    stop: int
    whole: int

    def __str__(self) -> str:
        return f"{self.place}: tokens {self.start + 1:,} to {self.stop:,} of {self.whole:,}"


@dataclass(frozen=True)
class Same:
    """Samples with the same tokens: how many, and the rows of the first of them."""

    count: int
    places: list[str]

    def __str__(self) -> str:
        more = self.count - len(self.places)
        return " = ".join(self.places) + (f" and {more:,} more" if more else "")


@dataclass(frozen=True)
class Survey:
    """Samples as a whole. ``learned`` leaves first tokens out: nothing predicts them."""

    samples: int
    again: int  # of them, those of a row taken again (name#N above its rows, interleaving)
    tokens: int
    learned: int
    bars: list[Bar]
    doubled: int  # samples with the same tokens as one before
    doubles: list[Same]  # the first of them
    cut: int
    cuts: list[Cut]  # the first of them


@dataclass(frozen=True)
class Token:
    """One token; ``text`` is empty where it is only the beginning of a character."""

    id: int
    text: str
    weight: float
    position: int  # in its sample
    special: bool


@dataclass(frozen=True)
class Shown:
    """A sample, token by token."""

    number: int  # counted from 0, in the order of the data
    place: str
    length: int
    learned: int
    tokens: list[Token]
    hidden: int  # tokens left out in the middle of ``tokens``
    media: list[Seen] = field(default_factory=list)


@dataclass(frozen=True)
class ShownPack:
    """A pack: how full it is, and its first samples."""

    number: int  # counted from 0, in the order of the first epoch
    lengths: list[int]  # positions of every sample: one less than its tokens
    capacity: int
    samples: list[Shown]

    @property
    def fill(self) -> float:
        """Share of the positions that samples take."""
        return sum(self.lengths) / self.capacity


def survey(samples: Samples) -> Survey:
    """Count what is in samples."""
    lengths_S, whole_S = samples.lengths_S, samples.whole_S
    cut = np.flatnonzero(lengths_S < whole_S)
    once = _once(samples)
    sets = _doubles(samples, once)
    doubles = [Same(len(s), [samples.place(i) for i in s[:_PLACES]]) for s in sets[:_LISTED]]
    return Survey(
        samples=len(samples),
        again=len(samples) - len(once),
        tokens=int(lengths_S.sum()),
        learned=int(samples.learned_S.sum()),
        bars=bars(lengths_S),
        doubled=sum(len(same) - 1 for same in sets),
        doubles=doubles,
        cut=len(cut),
        cuts=[_cut(samples, int(i), int(whole_S[i])) for i in cut[:_LISTED]],
    )


def _cut(samples: Samples, i: int, whole: int) -> Cut:
    return Cut(samples.place(i), int(samples.start_S[i]), int(samples.stop_S[i]), whole)


def bars(lengths_S: Array) -> list[Bar]:
    """A histogram of lengths: bars of a round width, from the shortest to the longest."""
    if not len(lengths_S):
        return []
    least, most = int(lengths_S.min()), int(lengths_S.max())
    needed = (most - least + 1) / (_BARS - 1)
    power = 10 ** max(0, math.floor(math.log10(needed)))
    width = next(w * power for w in (*_WIDTHS, 10) if w * power >= needed)
    first = least // width
    counts = np.bincount(lengths_S // width - first)
    return [
        Bar((first + i) * width, (first + i + 1) * width - 1, int(count))
        for i, count in enumerate(counts)
    ]


def _once(samples: Samples) -> Array:
    """The samples without those that are there already: the same part of the same row."""
    rows = np.stack([samples.block_S, samples.index_S, samples.start_S], axis=1)
    return np.sort(np.unique(rows, axis=0, return_index=True)[1])


def _doubles(samples: Samples, once: Array) -> list[list[int]]:
    """Sets of samples of different rows with the same tokens, by their first."""
    found: dict[bytes, list[int]] = {}
    for i in _alike(samples.lengths_S, samples.learned_S, once).tolist():
        tokens = samples[i].tokens.tobytes()
        found.setdefault(hashlib.blake2b(tokens, digest_size=16).digest(), []).append(i)
    return [same for same in found.values() if len(same) > 1]


def _alike(lengths_S: Array, learned_S: Array, chosen: Array) -> Array:
    """Those that share length and learned tokens with another one: the rest need not be read."""
    measures = np.stack([lengths_S[chosen], learned_S[chosen]], axis=1)
    _, which, counts = np.unique(measures, axis=0, return_inverse=True, return_counts=True)
    alike: Array = chosen[counts[which.reshape(-1)] > 1]
    return alike


def choose(samples: Samples, most: int) -> list[int]:
    """At most so many samples: the first ones, and among them the longest and the shortest."""
    count = min(most, len(samples))
    if count < 3:
        return list(range(count))
    ends = {int(samples.lengths_S.argmax()), int(samples.lengths_S.argmin())}
    first = [i for i in range(count) if i not in ends][: count - len(ends)]
    return sorted([*first, *ends])


def show(samples: Samples, i: int, renderer: Renderer, most: int) -> Shown:
    """A sample token by token.

    Args:
        samples: where it is.
        i: its index.
        renderer: what decodes its tokens.
        most: tokens to show; of a longer one the middle is left out.
    """
    sample = samples[i]
    length = len(sample.tokens)
    ids, weights = sample.tokens.tolist(), sample.weights.tolist()
    hidden = max(0, length - most)
    head = length if not hidden else (most + 1) // 2
    special = renderer.tokenizer.special_ids
    tokens = [
        Token(ids[at], text, weights[at], at, ids[at] in special)
        for part in (range(head), range(head + hidden, length))
        for at, text in zip(part, _texts(renderer, [ids[at] for at in part]), strict=True)
    ]
    learned = int(samples.learned_S[i])
    return Shown(i, sample.place, length, learned, tokens, hidden, see(sample, renderer))


def _texts(renderer: Renderer, ids: list[int]) -> Iterable[str]:
    """The text of each token; a character of several tokens stands at the last of them."""
    stream = renderer.tokenizer.stream(keep_special=True)
    return [stream.push(id) for id in ids]


def packs_in_order(order: Order) -> Order:
    """The same order with one group a step, so that a step is a pack."""
    return replace(order, batch_size=1, accumulation=1, processes=1, drop_last=False)


def show_packs(
    samples: Samples, order: Order, capacity: int, renderer: Renderer, count: int, most: int
) -> list[ShownPack]:
    """The first packs of a run.

    Args:
        samples: what the order's indices mean.
        order: which samples are in which pack.
        capacity: positions of a pack.
        renderer: what decodes tokens.
        count: samples to show, over all packs.
        most: tokens to show of each sample.
    """
    single, shown = packs_in_order(order), []
    for number in range(order.groups_per_epoch):
        if count <= 0:
            break
        [inside] = single.micro_batches(number, 0)
        parts = [show(samples, i, renderer, most) for i in inside[:count]]
        count -= len(parts)
        lengths = [int(samples.lengths_S[i]) - 1 for i in inside]
        shown.append(ShownPack(number, lengths, capacity, parts))
    return shown


def fill_of(samples: Samples, order: Order, capacity: int) -> float:
    """Share of all packs' positions that samples take."""
    return float((samples.lengths_S - 1).sum()) / (len(order.groups) * capacity)
