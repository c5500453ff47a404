"""Every step gets its share of every modality, on any number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from swift.data.shares import mix_of, turns
from swift.data.stream import Order
from swift.errors import ConfigError

SHARES = [(0.5, 0.5), (0.3, 0.7), (0.01, 0.99), (0.2, 0.3, 0.5), (1.0,)]


def order_of(shares: tuple[float, ...], sizes: list[int], stopping: Any, **more: Any) -> Order:
    names = [f"m{i}" for i in range(len(sizes))]
    modality_G = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    mix = mix_of(names, modality_G, dict(zip(names, shares, strict=True)), stopping)
    return Order([(i,) for i in range(sum(sizes))], mix=mix, **more)


@pytest.mark.parametrize("shares", SHARES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 100, 1000])
def test_every_run_of_turns_holds_its_shares(shares: tuple[float, ...], count: int) -> None:
    share_M = np.array(shares)
    whose = turns(share_M, count)
    assert len(whose) == count
    assert (abs(np.bincount(whose, minlength=len(shares)) - share_M * count) < 1).all()
    for size in (1, 4, 16, 50):
        for start in range(count - size + 1):
            found = np.bincount(whose[start : start + size], minlength=len(shares))
            assert (abs(found - share_M * size) <= 2.01).all()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_steps_and_processes_get_the_mixture(processes: int) -> None:
    order = order_of((0.25, 0.75), [300, 500], "first_exhausted", batch_size=8, processes=processes)
    assert order.mix is not None
    assert order.groups_per_epoch == 667  # 500 / 0.75
    for step in range(2 * order.steps_per_epoch - 1):
        for process in range(processes):
            [part] = order.micro_batches(step, process)
            if len(part) == 8:
                assert abs(sum(order.mix.modality_G[part] == 0) - 2) <= 1


@pytest.mark.parametrize(("stopping", "length"), [("first_exhausted", 60), ("all_exhausted", 200)])
def test_an_epoch_ends_with_the_first_or_with_all(stopping: str, length: int) -> None:
    order = order_of((0.5, 0.5), [30, 100], stopping)
    assert order.mix is not None and order.groups_per_epoch == length
    seen = order.sequence(0)
    counts = np.bincount(seen, minlength=130)
    small, large = (counts[order.mix.modality_G == m] for m in (0, 1))
    if stopping == "first_exhausted":
        assert (small == 1).all() and large.sum() == 30 and large.max() == 1
        other = set(seen.tolist()) ^ set(order.sequence(1).tolist())
        assert other, "another epoch takes others of the long one"
    else:
        assert (large == 1).all() and small.sum() == 100 and small.min() >= 3


def test_the_order_follows_from_the_seed() -> None:
    one, same = (order_of((0.5, 0.5), [30, 40], "first_exhausted", seed=3) for _ in range(2))
    assert (one.sequence(2) == same.sequence(2)).all()
    assert (one.sequence(2) != one.sequence(1)).any()
    other = order_of((0.5, 0.5), [30, 40], "first_exhausted", seed=4)
    assert (one.sequence(0) != other.sequence(0)).any()
    plain = order_of((0.5, 0.5), [3, 3], "first_exhausted", shuffle=False)
    assert (plain.sequence(0) == plain.sequence(1)).all()


def test_shares_are_of_what_is_there() -> None:
    for shares in ({"text": 1.0}, {"text": 1.0, "image": 1.0, "video": 1.0}):
        with pytest.raises(ConfigError, match=r"the samples are of image, text: give each"):
            mix_of(["text", "image"], np.array([0, 1]), shares, "first_exhausted")


def test_what_is_drawn_can_be_read() -> None:
    order = order_of((1, 3), [30, 1000], "first_exhausted")
    assert str(order.mix) == "m0 25% (30 an epoch, of 30), m1 75% (90 an epoch, of 1,000)"
