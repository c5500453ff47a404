"""Which samples are in which step: every one once an epoch, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tiny
from chat.templates import FAMILIES
from swift.data.encode import EncodeSettings, encode
from swift.data.ledger import Ledger
from swift.data.sample import Samples, collect
from swift.data.source import Source, blocks
from swift.data.stream import Collate, Order, group, steps

SIZES = [(1, 1, 1), (2, 1, 1), (1, 4, 1), (2, 3, 1), (1, 1, 3), (2, 2, 2), (4, 1, 4)]


def groups_of(count: int, packed: bool = False) -> list[tuple[int, ...]]:
    """Single samples, or packs of one to three."""
    if not packed:
        return [(i,) for i in range(count)]
    borders = sorted({0, count, *np.random.default_rng(0).choice(count, count // 2).tolist()})
    return [tuple(range(a, b)) for a, b in pairwise(borders)]


def of_step(order: Order, step: int) -> list[int]:
    """Samples of a step over all processes."""
    return sorted(
        sample
        for process in range(order.processes)
        for part in order.micro_batches(step, process)
        for sample in part
    )


@pytest.mark.parametrize("count", [1, 2, 7, 24, 25, 100])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_once_an_epoch(
    count: int, sizes: tuple[int, int, int], packed: bool, shuffle: bool
) -> None:
    order = Order(groups_of(count, packed), *sizes, shuffle=shuffle)
    each = order.steps_per_epoch
    assert each == -(-len(order.groups) // (sizes[0] * sizes[1] * sizes[2]))
    for epoch in range(3):
        seen = [s for step in range(each) for s in of_step(order, epoch * each + step)]
        assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("count", [1, 7, 24, 25])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2, 1), (1, 1, 2)),
        ((2, 2, 1), (2, 1, 2)),
        ((1, 8, 1), (1, 2, 4)),
        ((4, 1, 1), (1, 1, 4)),
    ],
    ids=str,
)
def test_a_step_is_the_same_however_it_is_spread(
    count: int, packed: bool, one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, second = (Order(groups_of(count, packed), *sizes) for sizes in (one, other))
    assert first.steps_per_epoch == second.steps_per_epoch
    for step in range(2 * first.steps_per_epoch):
        assert of_step(first, step) == of_step(second, step)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_process_has_as_many_micro_batches(sizes: tuple[int, int, int]) -> None:
    order = Order(groups_of(25), *sizes)
    batch_size, accumulation, processes = sizes
    for step in range(order.steps_per_epoch):
        counts = {len(order.micro_batches(step, process)) for process in range(processes)}
        assert len(counts) == 1
        assert 1 <= counts.pop() <= accumulation
        for process in range(processes):
            assert all(len(p) <= batch_size for p in order.micro_batches(step, process))


def test_the_last_step_takes_what_is_left_and_a_process_may_get_nothing() -> None:
    order = Order(groups_of(9), 1, 2, 4, shuffle=False)
    assert order.steps_per_epoch == 2
    assert [order.micro_batches(1, process) for process in range(4)] == [[[8]], [[]], [[]], [[]]]
    order = Order(groups_of(14), 2, 1, 4, shuffle=False)
    assert [order.micro_batches(1, process) for process in range(4)] == [
        [[8, 9]],
        [[10, 11]],
        [[12, 13]],
        [[]],
    ]


def test_a_step_that_is_not_full_may_be_left_out() -> None:
    order = Order(groups_of(25), 2, 2, 1, drop_last=True)
    assert order.steps_per_epoch == 6
    assert all(len(of_step(order, step)) == 4 for step in range(12))
    first, second = ({s for step in range(a, a + 6) for s in of_step(order, step)} for a in (0, 6))
    assert len(first) == len(second) == 24
    few = Order(groups_of(3), 2, 2, 1, drop_last=True)  # nothing would be left
    assert few.steps_per_epoch == 1
    assert of_step(few, 0) == [0, 1, 2]


def test_the_order_changes_with_the_epoch_and_the_seed_alone() -> None:
    order = Order(groups_of(50))
    first = [order.micro_batches(step, 0) for step in range(50)]
    assert first == [Order(groups_of(50)).micro_batches(step, 0) for step in range(50)]
    assert first != [order.micro_batches(step, 0) for step in range(50, 100)]
    assert first != [Order(groups_of(50), seed=7).micro_batches(step, 0) for step in range(50)]
    plain = Order(groups_of(50), shuffle=False)
    assert [plain.micro_batches(step, 0) for step in range(100)] == [[[i % 50]] for i in range(100)]


def test_shuffling_is_even() -> None:
    """Each of 5 samples is as often in each place."""
    counts = np.zeros((5, 5))
    order = Order(groups_of(5))
    for step in range(5 * 2000):
        counts[step % 5, of_step(order, step)[0]] += 1
    assert abs(counts - 400).max() < 120  # 400 +- 18


# Real samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("order")
    file = tiny.write_rows(folder / "chats.jsonl", tiny.chats(30))
    spec = FAMILIES["chatml"].renderer().spec
    made = encode(blocks(Source(file, "chats.jsonl"), 1), spec, EncodeSettings("chat"), folder)
    return collect(made, 512, "drop", Ledger(), strict=False)


def places(windows: Iterator[list[Any]]) -> list[list[tuple[str, ...]]]:
    return [[batch.places for batch in window] for window in windows]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_the_order(samples: Samples, workers: int) -> None:
    order = Order(group(samples, None), 2, 3, 2)
    for process in range(2):
        found = places(steps(samples, order, first=0, last=6, process=process, workers=workers))
        assert found == [
            [tuple(samples.place(i) for i in part) for part in order.micro_batches(step, process)]
            for step in range(6)
        ]


@pytest.mark.parametrize("capacity", [None, 150])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_goes_on_sees_what_a_whole_run_sees(
    samples: Samples, capacity: int | None, workers: int
) -> None:
    order = Order(group(samples, capacity), 1, 4)
    last = 2 * order.steps_per_epoch + 1
    whole = places(steps(samples, order, first=0, last=last))
    for first in range(0, last, 3) if workers == 0 else (4,):
        rest = steps(samples, order, first=first, last=last, workers=workers)
        assert places(rest) == whole[first:]


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_and_weights_of_an_epoch_are_those_of_the_samples(
    samples: Samples, packed: bool
) -> None:
    order = Order(group(samples, 200), 1, 2)
    collate = Collate(packed)
    windows = list(steps(samples, order, first=0, last=order.steps_per_epoch, collate=collate))
    learned = sum(batch.learned_N.numel() for window in windows for batch in window)
    assert learned == samples.learned_S.sum()
    targets = sorted(t for window in windows for b in window for t in b.targets_N.tolist())
    assert targets == sorted(
        t for one in samples for t in one.tokens[1:][one.weights[1:] > 0].tolist()
    )
    assert all(batch.packed is packed for window in windows for batch in window)


def test_packs_fit_and_hold_every_sample(samples: Samples) -> None:
    packs = group(samples, 150)
    positions = samples.lengths_S - 1
    assert len(packs) < len(samples)
    assert sorted(i for pack in packs for i in pack) == list(range(len(samples)))
    assert all(positions[pack].sum() <= 150 or len(pack) == 1 for pack in packs)
    assert [list(single) for single in group(samples, None)] == [[i] for i in range(30)]


@pytest.mark.parametrize("count", [1, 7, 25, 1000])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 1), (2, 2, 2)], ids=str)
def test_like_lengths_come_together(count: int, sizes: tuple[int, int, int]) -> None:
    lengths = np.random.default_rng(1).integers(1, 500, count)
    order = Order(groups_of(count), *sizes, lengths=lengths)
    plain = Order(groups_of(count), *sizes)
    for epoch in range(2):
        each = order.steps_per_epoch
        steps_of = [of_step(order, epoch * each + step) for step in range(each)]
        assert sorted(sample for step in steps_of for sample in step) == list(range(count))
        assert [len(step) for step in steps_of] == [
            len(of_step(plain, epoch * each + step)) for step in range(each)
        ]
        if count == 1000 and order.groups_per_step > 1:
            spread = np.mean([np.ptp(lengths[step]) for step in steps_of])
            usual = np.mean([np.ptp(lengths[of_step(plain, step)]) for step in range(each)])
            assert spread < 0.2 * usual
            longest = [int(lengths[step].max()) for step in steps_of]
            assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    again = Order(groups_of(count), *sizes, lengths=lengths)
    assert order.sequence(1).tolist() == again.sequence(1).tolist()
    assert count < 25 or order.sequence(0).tolist() != order.sequence(1).tolist()


@pytest.mark.parametrize("window", [1, 5, 24, 100])
def test_packs_within_windows(samples: Samples, window: int) -> None:
    groups = group(samples, 100, window)
    inside = [sorted(int(i) for i in pack) for pack in groups]
    assert sorted(i for pack in inside for i in pack) == list(range(len(samples)))
    assert all(pack[0] // window == pack[-1] // window for pack in inside)
    for pack in inside:
        assert len(pack) == 1 or sum(samples.lengths_S[pack] - 1) <= 100
    if window >= len(samples):
        assert inside == [sorted(int(i) for i in pack) for pack in group(samples, 100)]
