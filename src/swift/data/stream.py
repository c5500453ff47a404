"""The order of samples: which are in which step, on which process, in every epoch.

The order is a function of seed and epoch alone. So a run that goes on from step k needs to know
nothing but k, and one process with two micro-batches sees the same step as two processes with one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from swift.chat.media.marks import Features
from swift.chat.render import RendererSpec
from swift.data.batch import Batch, batch
from swift.data.encode import renderer_of
from swift.data.pack import best_fit, pack
from swift.data.process import end_with_parent
from swift.data.sample import Sample, Samples
from swift.errors import DataError

Array = np.ndarray[Any, Any]

_WINDOW_STEPS = 50  # steps within which samples of like length are brought together


@dataclass(frozen=True)
class Order:
    """How groups (single samples, or packs of them) are dealt out.

    One step takes ``batch_size * accumulation * processes`` groups; the last one of an epoch may
    get fewer. No step crosses the end of an epoch.
    """

    groups: Sequence[Any]  # sample indices of every group
    batch_size: int = 1
    accumulation: int = 1
    processes: int = 1
    shuffle: bool = True
    seed: int = 42
    drop_last: bool = False
    lengths: Array | None = None  # of every group: bring like lengths into a step

    @property
    def groups_per_step(self) -> int:
        """Groups that a full step takes, over all processes."""
        return self.batch_size * self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        full, rest = divmod(len(self.groups), self.groups_per_step)
        return full if self.drop_last and full else full + (rest > 0)

    def micro_batches(self, step: int, process: int) -> list[list[int]]:
        """The samples of every micro-batch of a step (counted from 0 over the run) on a process.

        Every process has the same number of them; the last may be empty.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self.sequence(epoch)[place * self.groups_per_step :][: self.groups_per_step]
        return [
            [int(sample) for group in part for sample in self.groups[int(group)]]
            for part in deal(chosen, self, process)
        ]

    def sequence(self, epoch: int) -> Array:
        """The groups in the order in which an epoch takes them."""
        count = len(self.groups)
        order = _permutation(count, self.seed, epoch) if self.shuffle else np.arange(count)
        if self.lengths is None:
            return order
        return _alike(order, self.lengths, self.groups_per_step, self.seed, epoch)


def deal(chosen: Any, order: Order, process: int) -> Iterator[Any]:
    """What a process gets of the groups of a step, micro-batch by micro-batch.

    Every process gets as many of them; the last may be empty.
    """
    stride = order.batch_size * order.processes
    for begin in range(0, len(chosen), stride):
        left = begin + process * order.batch_size
        yield chosen[left : left + order.batch_size]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Array:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _alike(order: Array, lengths: Array, size: int, seed: int, epoch: int) -> Array:
    """Steps of like lengths: sorted within windows of an order, and the steps drawn anew there.

    The groups that fill no whole step stay at the end; they are the shortest of their window.
    """
    random = np.random.default_rng([seed, epoch, size])
    parts = []
    for begin in range(0, len(order), _WINDOW_STEPS * size):
        window = order[begin : begin + _WINDOW_STEPS * size]
        window = window[np.argsort(-lengths[window], kind="stable")]
        whole = len(window) // size * size
        steps_SG = window[:whole].reshape(-1, size)
        parts += [random.permutation(steps_SG).reshape(-1), window[whole:]]
    return np.concatenate(parts)


class _Singles(Sequence[Any]):
    """Every sample as a group of its own, without a list of them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        if i >= self._count:
            raise IndexError(i)
        return (i,)


class _Packs(Sequence[Any]):
    """Groups as two flat arrays: millions of them take no more than their numbers."""

    def __init__(self, groups: list[Array]) -> None:
        self._starts = np.cumsum([0, *(len(group) for group in groups)])
        self._samples = np.concatenate(groups).astype(np.int32) if groups else np.zeros(0, np.int32)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: Any) -> Any:
        return self._samples[self._starts[i] : self._starts[i + 1]]


def group(samples: Samples, capacity: int | None, window: int | None = None) -> Sequence[Any]:
    """Groups of samples: packs of at most ``capacity`` positions, or (None) one sample each.

    Args:
        samples: what is laid out.
        capacity: positions of a pack.
        window: samples that are packed among themselves; None: all of them.
    """
    if capacity is None:
        return _Singles(len(samples))
    lengths, size = samples.lengths_S, window or max(1, len(samples))
    return _Packs(
        [
            begin + pack
            for begin in range(0, len(lengths), size)
            for pack in best_fit(lengths[begin : begin + size], capacity)
        ]
    )


def lengths_of(samples: Samples, groups: Sequence[Any]) -> Array:
    """Tokens of every group."""
    if isinstance(groups, _Singles):
        return samples.lengths_S
    return np.array([samples.lengths_S[group].sum() for group in groups])


class _Batches(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample], partners: bool) -> None:
        self.samples, self.partners = samples, partners

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        return [self[i] for i in indices]

    def __getitem__(self, i: int) -> Sample:
        if not self.partners:
            return self.samples[i]
        far = max(1, len(self.samples) // 2)  # neighbours often answer the same prompt
        other = self.samples[(i + far) % len(self.samples)]
        return replace(self.samples[i], partner=other)


@dataclass(frozen=True)
class _Keys:
    """The micro-batches of a run from a step on, as torch's loader asks for them."""

    order: Order
    first: int
    last: int
    process: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield from self.order.micro_batches(step, self.process)


@dataclass(frozen=True)
class Collate:
    """Samples -> a batch.

    ``packed``: samples end to end, else padded rows. ``multiple``: of positions that packed batches
    are filled up to. ``spec``: of the renderer, where samples may hold media. ``counted``: a batch
    counts for its samples, not for its tokens. ``share``, ``whole``, ``padding``: as of pack().
    ``beside``: makes samples that are read with others, and not learned.
    """

    packed: bool = True
    multiple: int = 1
    spec: RendererSpec | None = None
    counted: bool = False
    share: bool = False
    whole: bool = False
    padding: int | None = None
    beside: Callable[[list[Sample]], list[Sample]] | None = None

    def __call__(self, samples: list[Sample]) -> Batch:
        """Lay samples out, with what the model reads for their media."""
        multiple = self.multiple if self.packed else 1
        laid = pack(
            samples,
            multiple,
            share=self.share and self.packed,
            whole=self.whole,
            padding=self.padding,
        )
        beside = replace(self, beside=None)(self.beside(samples)) if self.beside else None
        return batch(
            laid,
            packed=self.packed,
            features=self._features(samples),
            weight=float(len(samples)) if self.counted else None,
            beside=beside,
        )

    def _features(self, samples: list[Sample]) -> Features | None:
        if self.spec is None or not any(sample.media for sample in samples):
            return None
        marks = renderer_of(self.spec).marks
        try:
            return marks.features([(sample.tokens.tolist(), sample.media) for sample in samples])
        except DataError as error:
            for sample in samples:  # which one it is
                try:
                    marks.features([(sample.tokens.tolist(), sample.media)])
                except DataError as own:
                    raise DataError(f"{sample.place}: {own}") from None
            raise error


PLAIN = Collate()
"""Texts, end to end."""


def _start_worker(worker: int) -> None:
    """A signal to the whole group (Ctrl-C, a scheduler's SIGTERM) is for the training process: it
    finishes its step and saves, and for that it needs its workers.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def steps(
    samples: Sequence[Sample],
    order: Order,
    *,
    first: int,
    last: int,
    process: int = 0,
    collate: Collate = PLAIN,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from ``first`` up to ``last``.

    Args:
        samples: what the order's indices mean.
        order: which samples are in which step.
        first: the step to begin with (counted from 0 over the run).
        last: the step to stop before.
        process: which of the order's processes this is.
        collate: makes a batch of samples.
        workers: processes that prepare batches ahead.
        pin: put batches into page-locked memory (for a GPU).
    """
    loader: Any = DataLoader(
        _Batches(samples, collate.beside is not None),
        batch_sampler=_Keys(order, first, last, process),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker if workers else None,
        generator=torch.Generator(),  # its own: the global one belongs to the model's dropout
    )
    batches = iter(loader)
    try:
        for step in range(first, last):
            count = len(order.micro_batches(step, process))
            yield [next(batches) for _ in range(count)]
    finally:
        del batches
