"""Samples of several sequences: laid so that what they begin with alike is read once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.data.batch import batch
from swift.data.pack import Pack, pack
from swift.data.sample import Sample

sequences = st.lists(st.integers(0, 3), min_size=2, max_size=7)
groups = st.lists(sequences, min_size=1, max_size=3)


def sample_of(group: list[list[int]]) -> Sample:
    """Its first token is not learned, every other one is."""
    tokens = np.array([token for one in group for token in one], np.int32)
    weights = np.array([w for one in group for w in [0, *([1] * (len(one) - 1))]], np.float32)
    return Sample(tokens, weights, "row", (), tuple(map(len, group)))


def read(made: Pack, segment: int, stop: int) -> list[int]:
    """The tokens that a position sees, by way of its segment's parents."""
    start, parent = int(made.starts_S[segment]), made.parents[segment]
    before = read(made, parent, int(made.starts_S[parent + 1])) if parent >= 0 else []
    return before + made.tokens_T[start:stop].tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(groups, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_every_token_is_predicted_from_what_stands_before_it(
    made_of: list[list[list[int]]], share: bool, whole: bool
) -> None:
    made = pack([sample_of(group) for group in made_of], share=share, whole=whole)
    wanted = [one for group in made_of for one in group]
    seen = {number: [one[0]] for number, one in enumerate(wanted)}
    columns = (made.learned_N, made.targets_N, made.sequence_N)
    for position, target, number in zip(*(column.tolist() for column in columns), strict=True):
        segment = int(np.searchsorted(made.starts_S, position, side="right")) - 1
        context = read(made, segment, position + 1)
        assert context == seen[number]
        assert made.positions_T[position] == len(context) - 1
        seen[number].append(target)
    assert seen == dict(enumerate(wanted))
    for number, end in enumerate(made.ends_Q.tolist()):
        segment = int(np.searchsorted(made.starts_S, end, side="right")) - 1
        expected = wanted[number] if whole else wanted[number][:-1]
        assert read(made, segment, end + 1) == expected
    assert all(a < b for a, b in pairwise(made.starts_S.tolist()))
    plain = pack([sample_of(group) for group in made_of], whole=whole)
    assert made.count <= plain.count and (share or not made.branches)
    given = batch(made, weight=3.0)
    assert given.weight == 3.0 and len(given.ends_Q) == len(wanted)


def test_a_prompt_is_laid_once() -> None:
    prompt = list(range(20))
    group = [[*prompt, 100, 101, 102], [*prompt, 200, 201]]
    made = pack([sample_of(group)], share=True)
    assert made.count == 20 + 2 + 1
    assert made.parents == (-1, 0, 0)
    assert made.positions_T[20:].tolist() == [20, 21, 20]
    with_image = Sample(*_columns(group), "row", (object(),), (23, 22))  # type: ignore[arg-type]
    assert pack([with_image], share=True).count == 22 + 21


def _columns(group: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    made = sample_of(group)
    return made.tokens, made.weights


@pytest.mark.parametrize("share", [False, True])
def test_what_a_reference_says_stays_with_its_tokens(share: bool) -> None:
    one = sample_of([[1, 2, 3], [1, 2, 4, 5]])
    known = np.arange(5, dtype=np.float32)
    both = [
        Sample(one.tokens, one.weights, "row", (), one.parts, (), known + 10 * i) for i in range(2)
    ]
    made = pack(both, 16, share=share)
    assert made.reference_N is not None
    assert made.reference_N.tolist() == [*known.tolist(), *(known + 10).tolist()]
    assert made.targets_N.tolist() == [2, 3, 2, 4, 5] * 2


def test_padding_at_the_end_is_not_read_where_scores_are_asked_for() -> None:
    made = pack([sample_of([[5, 6, 7, 2, 2], [5, 2, 6], [2, 2]])], whole=True, padding=2)
    assert [read(made, i, int(end) + 1) for i, end in enumerate(made.ends_Q)] == [
        [5, 6, 7],
        [5, 2, 6],
        [2, 2],
    ]
