"""Samples end to end: groups that fit, the shift by one, and the same triples padded or packed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from swift.data.batch import Batch, batch
from swift.data.pack import best_fit, pack
from swift.data.sample import Sample


def lengths_of(kind: str, count: int, capacity: int, seed: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    drawn = {
        "uniform": lambda: random.integers(2, capacity + 2, count),
        "short": lambda: random.integers(2, max(3, capacity // 8), count),
        "long": lambda: random.integers(capacity // 3, capacity + 2, count),
        "lognormal": lambda: random.lognormal(np.log(capacity / 6), 1, count).astype(int) + 2,
        "thirds": lambda: random.choice([capacity // 3, capacity // 3 + 2, capacity // 2], count),
    }[kind]()
    return np.minimum(drawn, capacity + 1)


KINDS = ["uniform", "short", "long", "lognormal", "thirds"]


def groups_needed_at_least(positions: np.ndarray[Any, Any], capacity: int) -> int:
    """A bound from below: by volume, and no two samples above the half share a group."""
    return max(-(-int(positions.sum()) // capacity), int((positions * 2 > capacity).sum()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [7, 128, 4096])
@pytest.mark.parametrize("count", [1, 10, 3000])
def test_groups_hold_every_sample_once_and_never_too_much(
    kind: str, capacity: int, count: int
) -> None:
    lengths = lengths_of(kind, count, capacity, seed=count)
    groups = best_fit(lengths, capacity)
    positions = lengths - 1
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))
    assert max(positions[group].sum() for group in groups) <= capacity
    assert all(group.tolist() == sorted(group.tolist()) for group in groups)
    bound = groups_needed_at_least(positions, capacity)
    assert bound <= len(groups) <= 11 / 9 * bound + 1


def test_the_same_lengths_give_the_same_groups() -> None:
    lengths = lengths_of("lognormal", 2000, 512, 3)
    one, two = best_fit(lengths, 512), best_fit(lengths.copy(), 512)
    assert [group.tolist() for group in one] == [group.tolist() for group in two]


def test_best_fit_is_a_plain_search_for_the_fullest_group() -> None:
    lengths = lengths_of("uniform", 300, 64, 1)
    groups: list[list[int]] = []
    for i in sorted(range(300), key=lambda i: -lengths[i]):
        room = [64 - sum(int(lengths[j]) - 1 for j in group) for group in groups]
        fits = [(room[g], g) for g in range(len(groups)) if room[g] >= lengths[i] - 1]
        if fits:
            groups[min(fits)[1]].append(i)
        else:
            groups.append([i])
    assert [group.tolist() for group in best_fit(lengths, 64)] == [sorted(g) for g in groups]


def test_a_sample_above_the_capacity_is_alone() -> None:
    groups = best_fit(np.array([5, 100, 5, 11, 1]), 10)
    assert [1] in [group.tolist() for group in groups]
    assert sorted(np.concatenate(groups).tolist()) == [0, 1, 2, 3, 4]
    assert best_fit(np.array([], dtype=int), 10) == []


def samples_of(*lengths: int, seed: int = 0) -> list[Sample]:
    random = np.random.default_rng(seed)
    return [
        Sample(
            random.integers(0, 1000, length).astype(np.int32),
            random.choice([0.0, 1.0, 0.5], length).astype(np.float32),
            f"a.jsonl:{i}",
        )
        for i, length in enumerate(lengths, 1)
    ]


def test_a_position_reads_a_token_and_predicts_the_next_of_its_sample() -> None:
    samples = samples_of(5, 2, 1, 9)
    made = pack(samples)
    columns = (made.targets_N.tolist(), made.weights_N.tolist(), made.sequence_N.tolist())
    learned = dict(zip(made.learned_N.tolist(), zip(*columns, strict=True), strict=True))
    at = 0
    for place, one in enumerate(samples):
        assert made.starts_S[place] == at
        for t in range(len(one.tokens) - 1):
            assert made.tokens_T[at] == one.tokens[t]
            expected = (one.tokens[t + 1], one.weights[t + 1], place)
            assert learned.pop(at, None) == (expected if one.weights[t + 1] else None)
            assert made.positions_T[at] == t
            at += 1
    assert not learned
    assert made.starts_S[-1] == at == len(made.tokens_T) == 4 + 1 + 0 + 8
    assert made.places == ("a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4")
    kinds = (made.tokens_T, made.targets_N, made.weights_N, made.positions_T, made.starts_S)
    assert [array.dtype.name for array in kinds] == ["int64", "int64", "float32", "int64", "int32"]


def test_no_samples_are_one_position_that_counts_for_nothing() -> None:
    empty = batch(pack([]))
    assert (empty.tokens.shape, empty.weight, empty.places) == ((1, 1), 0.0, ())
    assert empty.learned_N.numel() == empty.targets_N.numel() == 0
    padded = batch(pack([]), packed=False)
    assert (padded.tokens.shape, padded.weight) == ((1, 1), 0.0)


def triples(made: Batch) -> Counter[tuple[int, ...]]:
    """(token, its place, target, weight) of every learned position."""
    where = made.learned_N
    columns = (
        made.tokens.flatten()[where],
        made.positions.flatten()[where],
        made.targets_N,
        (made.weights_N * 8).long(),
    )
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("lengths", [(5,), (5, 2, 9), (2, 2, 2), (17, 3, 40, 8, 2)], ids=str)
def test_packed_and_padded_learn_the_same(lengths: tuple[int, ...]) -> None:
    samples = samples_of(*lengths, seed=len(lengths))
    packed, padded = (batch(pack(samples), packed=choice) for choice in (True, False))
    expected = Counter(
        (int(one.tokens[t]), t, int(one.tokens[t + 1]), int(one.weights[t + 1] * 8))
        for one in samples
        for t in range(len(one.tokens) - 1)
        if one.weights[t + 1] > 0
    )
    assert triples(packed) == triples(padded) == expected
    weight = sum(float(one.weights[1:].sum()) for one in samples)
    assert packed.weight == padded.weight == weight
    assert packed.tokens.shape == (1, sum(lengths) - len(lengths))
    assert padded.tokens.shape == (len(lengths), max(lengths) - 1)
    assert packed.longest == padded.longest == max(lengths) - 1
    assert packed.count == padded.count == sum(lengths) - len(lengths)


@pytest.mark.parametrize("multiple", [1, 4, 9, 64])
def test_filling_up_adds_a_sample_that_counts_for_nothing(multiple: int) -> None:
    samples = samples_of(4, 7)  # 9 positions
    plain, filled = batch(pack(samples)), batch(pack(samples, multiple))
    assert filled.tokens.shape[1] == -(-9 // multiple) * multiple
    assert filled.tokens[:, :9].equal(plain.tokens)
    assert (filled.count, filled.weight) == (9, plain.weight)
    assert filled.places == plain.places
    assert triples(filled) == triples(plain)
    extra = filled.tokens.shape[1] - 9
    assert filled.bounds == ((*plain.bounds, 9 + extra) if extra else plain.bounds)
    assert filled.positions[0, 9:].tolist() == list(range(extra))


def test_no_samples_fill_a_whole_multiple() -> None:
    empty = batch(pack([], 16))
    assert (empty.tokens.shape, empty.weight, empty.count) == ((1, 16), 0.0, 0)
    assert empty.bounds == (0, 16)


def test_padding_stands_on_the_right() -> None:
    samples = samples_of(4, 7)
    padded = batch(pack(samples), packed=False)
    for row, one in zip(padded.tokens.tolist(), samples, strict=True):
        size = len(one.tokens) - 1
        assert row[:size] == one.tokens[:-1].tolist()
        assert row[size:] == [0] * (6 - size)
    assert padded.positions.tolist() == [list(range(6))] * 2


def test_a_batch_says_where_samples_begin_and_come_from() -> None:
    made = batch(pack(samples_of(4, 7)))
    assert made.bounds == (0, 3, 9) == tuple(made.starts_S.tolist())
    assert made.starts_S.dtype == torch.int32
    assert made.places == ("a.jsonl:1", "a.jsonl:2")
    assert made.to(torch.device("cpu")) is made
