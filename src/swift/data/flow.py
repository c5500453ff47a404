"""Rows that pass by: read, turned into tokens, dealt out and forgotten, window by window.

A window is some thousand rows: within it samples are drawn in a new order and packed. Which rows
are in which window follows from the files alone, so a run goes on from a :class:`Place`: the
windows before it are read over without making tokens of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from swift.data.batch import Batch
from swift.data.encode import Encoded
from swift.data.ledger import Ledger
from swift.data.sample import Samples
from swift.data.source import BLOCK, Block, Source, read
from swift.data.stream import PLAIN, Collate, Order, deal, group, lengths_of
from swift.errors import DataError

_EPOCHS = 1 << 32  # windows of an epoch that have an order of their own


@dataclass(frozen=True)
class Place:
    """Where in the rows the next step begins."""

    epoch: int = 0
    window: int = 0  # of the epoch
    group: int = 0  # of the window: those before it are used up


@dataclass(frozen=True)
class Lane:
    """One of the sources that a window is drawn from, and how many of its rows."""

    sources: list[Source]
    rows: int

    def parts(self, seed: int) -> Iterator[list[Block]]:
        """Its part of every window; blocks are no larger than those of any other run."""
        blocks = -(-self.rows // BLOCK)
        found = read(self.sources, seed, size=-(-self.rows // blocks))
        while part := list(islice(found, blocks)):
            yield part


def lanes(sources: list[Source], weights: list[float], window: int) -> list[Lane]:
    """What windows are drawn from: all sources one after the other, or by weight.

    Args:
        sources: files; those of one data set follow each other.
        weights: of every data set; empty: they follow each other.
        window: rows of a window.
    """
    if not weights:
        return [Lane(sources, window)]
    share = window / sum(weights)
    own = [[s for s in sources if s.dataset == dataset] for dataset in range(len(weights))]
    return [Lane(s, max(1, round(w * share))) for s, w in zip(own, weights, strict=True)]


@dataclass
class Flow:
    """Windows of samples, and where in them the run stands."""

    lanes: list[Lane]
    stopping: str  # first_exhausted or all_exhausted
    seed: int
    encode: Callable[[Iterable[Block], Path], Iterator[Encoded]]  # files 0.arrow, 1.arrow ...
    collect: Callable[[list[Encoded], Ledger], Samples]
    settings: str  # what else decides the samples
    window: int | None = None  # positions of a pack; None: no packing
    place: Place = Place()
    ledger: Ledger = field(default_factory=Ledger)
    past: Ledger = field(default_factory=Ledger)  # without the window of the place

    @property
    def fingerprint(self) -> str:
        """Equal for equal samples in equal order, as far as names and sizes of files tell."""
        files = [
            (lane.rows, source.dataset, source.name, source.take, source.path.stat().st_size)
            for lane in self.lanes
            for source in lane.sources
        ]
        text = f"{files}:{self.stopping}:{self.seed}:{self.settings}"
        return hashlib.sha256(text.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """What a run needs to go on from here, for JSON."""
        return {"place": asdict(self.place), "ledger": self.past.as_dict()}

    def go_on(self, record: dict[str, Any]) -> None:
        """Take up what ``as_dict`` gave."""
        self.place = Place(**record["place"])
        self.ledger, self.past = Ledger.of(record["ledger"]), Ledger.of(record["ledger"])

    def windows(self, first: int) -> Iterator[tuple[int, Samples, Ledger]]:
        """The windows of one pass over the rows, from ``first`` on: number, samples, rows.

        Files of tokens are removed with the samples that they belong to.
        """
        folder = tempfile.TemporaryDirectory(prefix="swift-tokens-")
        sizes: deque[int] = deque()

        def blocks() -> Iterator[Block]:
            for blocks_of_window in islice(self._rows(), first, None):
                sizes.append(len(blocks_of_window))
                yield from blocks_of_window

        encoded = self.encode(blocks(), Path(folder.name))
        for number in count(first):
            head = next(encoded, None)
            if head is None:
                return
            parts = [head, *islice(encoded, sizes.popleft() - 1)]
            ledger = Ledger()
            samples = self.collect(parts, ledger)
            weakref.finalize(samples, _remove, [part.path for part in parts], folder)
            yield number, samples, ledger

    def _rows(self) -> Iterator[list[Block]]:
        """The blocks of every window."""
        parts = [lane.parts(self.seed) for lane in self.lanes]
        over = [False] * len(parts)
        while True:
            window: list[Block] = []
            for i, lane in enumerate(self.lanes):
                part = next(parts[i], None)
                if part is None:
                    over[i] = True
                    if self.stopping == "first_exhausted" or all(over):
                        return
                    parts[i] = lane.parts(self.seed)
                    part = next(parts[i], None)
                    if part is None:
                        raise DataError(f"{lane.sources[0].name} has no row to draw")
                window += part
            yield window

    def first(self) -> tuple[Samples, Ledger]:
        """The first samples, to look at; the place stays."""
        passed = Ledger()
        for _, samples, ledger in self.windows(0):
            passed.add(ledger)
            if len(samples):
                return samples, passed
        return Samples(), passed


def _remove(paths: list[Path], folder: object) -> None:
    """Remove files; their folder goes with the last who holds it."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


Group = tuple[Samples, Any]
"""Samples, and the indices of those that belong together."""


def dealt(flow: Flow, order: Order) -> Iterator[list[Group]]:
    """The groups of every step from the flow's place on; moves the place behind each."""
    for epoch in count(flow.place.epoch):
        waiting: list[Group] = []
        steps = 0
        for place, found in _groups(flow, order, epoch):
            waiting.append(found)
            if len(waiting) == order.groups_per_step:
                flow.place = place
                steps += 1
                yield waiting
                waiting = []
        flow.place, flow.past = Place(epoch + 1), deepcopy(flow.ledger)
        if waiting and not (order.drop_last and steps):
            yield waiting
        elif not steps:
            raise DataError(f"no row of {', '.join(flow.ledger.accounts)} can be used")


def _groups(flow: Flow, order: Order, epoch: int) -> Iterator[tuple[Place, Group]]:
    """Every group from the flow's place on, and the place behind it."""
    begin = flow.place
    for number, samples, ledger in flow.windows(begin.window):
        flow.past = deepcopy(flow.ledger)
        flow.ledger.add(ledger)
        groups = group(samples, flow.window)
        lengths = None if order.lengths is None else lengths_of(samples, groups)
        own = replace(order, groups=groups, lengths=lengths)
        skipped = begin.group if number == begin.window else 0
        for done, which in enumerate(own.sequence(epoch * _EPOCHS + number)):
            if done >= skipped:
                yield Place(epoch, number, done + 1), (samples, groups[int(which)])


def steps(
    flow: Flow,
    order: Order,
    *,
    count: int,
    process: int = 0,
    collate: Collate = PLAIN,
    pin: bool = False,
) -> Iterator[list[Batch]]:
    """The micro-batches of each of ``count`` steps, from the flow's place on.

    Args:
        flow: windows of samples.
        order: how groups are dealt out; its own groups are not read.
        count: steps.
        process: which of the order's processes this is.
        collate: makes a batch of samples.
        pin: put batches into page-locked memory (for a GPU).
    """
    for chosen in islice(dealt(flow, order), count):
        made = []
        for part in deal(chosen, order, process):
            inside = [samples[int(i)] for samples, indices in part for i in indices]
            made.append(collate(inside))
        yield [one.pin_memory() for one in made] if pin else made
