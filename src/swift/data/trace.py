"""Which rows a step learns from, and where in it they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from swift.data.flow import Flow, dealt
from swift.data.sample import Samples
from swift.data.stream import Order, deal
from swift.data.survey import packs_in_order

_BEGINNING = 80  # tokens of a row that are kept to be shown


@dataclass(frozen=True)
class Traced:
    """A sample in a step."""

    sample: int  # its index, in a stream that in its window
    place: str  # of its row
    tokens: int
    learned: int  # tokens, the first one left out
    weight: float  # sum of the weights of those
    process: int
    micro_batch: int  # of its process in this step, counted from 0
    group: int  # pack (or single sample) in the order of its epoch, of a stream in the step
    begins: list[int]  # its first tokens


def trace(samples: Samples, order: Order, step: int) -> list[Traced]:
    """The samples of a step, process by process, in the order in which they are laid out.

    Args:
        samples: what the order's indices mean.
        order: which samples are in which step.
        step: counted from 0 over the run.
    """
    return [
        _traced(samples, i, process, number, group)
        for process in range(order.processes)
        for number in range(len(order.micro_batches(step, process)))
        for group, i in _places(order, step, process, number)
    ]


def trace_flow(flow: Flow, order: Order, step: int) -> list[Traced]:
    """The same of a stream: its rows are read up to that step."""
    chosen = list(enumerate(next(islice(dealt(flow, order), step, None), [])))
    return [
        _traced(samples, int(i), process, number, group)
        for process in range(order.processes)
        for number, part in enumerate(deal(chosen, order, process))
        for group, (samples, indices) in part
        for i in indices
    ]


def _places(order: Order, step: int, process: int, number: int) -> Iterator[tuple[int, int]]:
    """Group and sample of everything in one micro-batch."""
    epoch, place = divmod(step, order.steps_per_epoch)
    first = place * order.groups_per_step
    left = first + (number * order.processes + process) * order.batch_size
    end = min(left + order.batch_size, first + order.groups_per_step, order.groups_per_epoch)
    single = packs_in_order(order)
    for group in range(left, end):
        [inside] = single.micro_batches(epoch * order.groups_per_epoch + group, 0)
        yield from ((group, i) for i in inside)


def _traced(samples: Samples, i: int, process: int, number: int, group: int) -> Traced:
    sample = samples[i]
    return Traced(
        sample=i,
        place=sample.place,
        tokens=len(sample.tokens),
        learned=int(samples.learned_S[i]),
        weight=float(sample.weights[1:].astype("float64").sum()),
        process=process,
        micro_batch=number,
        group=group,
        begins=sample.tokens[:_BEGINNING].tolist(),
    )
