"""Samples of several data sets and files: how many of each, and in which order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import tiny
from chat.templates import FAMILIES
from swift.config.data import ConversationsSection
from swift.config.parse import read
from swift.config.runs import SftConfig
from swift.data import interleave as module
from swift.data.interleave import interleave
from swift.data.prepare import Prepared, Workshop, prepare
from swift.errors import ConfigError, DataError


def prepared(cache: Path, train: list[str], /, **settings: Any) -> Prepared:
    section = ConversationsSection(train=train, **settings)
    workshop = Workshop(section, FAMILIES["chatml"].renderer().spec, "chat", 200, cache, Path)
    return prepare(workshop, section.train)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """5 rows in one file, 15 in another."""
    (tmp_path / "rows").mkdir()
    tiny.write_rows(tmp_path / "rows/a.jsonl", tiny.chats(5))
    tiny.write_rows(tmp_path / "rows/b.jsonl", tiny.chats(15))
    return tmp_path / "rows"


@pytest.mark.parametrize("form", ["{}", "{}/*.jsonl"])
@pytest.mark.parametrize("take", [7, 20, 21, 50])
def test_rows_of_several_files_come_back_together(
    folder: Path, tmp_path: Path, form: str, take: int
) -> None:
    found = prepared(tmp_path / "tokens", [f"{form.format(folder)}#{take}"])
    counts = Counter(one.place for one in found.train)
    assert len(found.train) == take
    assert len(counts) == min(take, 20)
    assert set(counts.values()) <= {max(take // 20, 1), -(-take // 20)}


def test_the_same_file_twice_is_two_data_sets(folder: Path, tmp_path: Path) -> None:
    found = prepared(tmp_path / "tokens", [f"{folder}/a.jsonl#7", f"{folder}/a.jsonl#10"])
    counts = Counter(one.place for one in found.train)
    assert len(found.train) == 17
    assert set(counts.values()) <= {3, 4}


# The draws


STRATEGIES = ["first_exhausted", "all_exhausted"]


def naive(
    sizes: list[int], weights: list[float], stopping: str, seed: int
) -> tuple[list[int], list[int]]:
    """One draw after the other."""
    random, share = np.random.default_rng(seed), np.array(weights) / sum(weights)
    given, drawn, number = [0] * len(sizes), [], []
    enough = any if stopping == "first_exhausted" else all
    while not enough(count >= size for count, size in zip(given, sizes, strict=True)):
        dataset = int(random.choice(len(sizes), p=share))
        drawn.append(dataset)
        number.append(given[dataset] % sizes[dataset])
        given[dataset] += 1
    return drawn, number


@pytest.mark.parametrize("stopping", STRATEGIES)
@pytest.mark.parametrize("at_once", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        ([5, 50], [0.5, 0.5]),
        ([50, 5, 20], [0.1, 0.8, 0.1]),
        ([1, 1, 1], [3, 1, 2]),
        ([9], [0.2]),
        ([1, 300], [1, 99]),
    ],
)
def test_draws_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch,
    stopping: Any,
    at_once: int,
    sizes: list[int],
    weights: list[float],
) -> None:
    monkeypatch.setattr(module, "_DRAWS", at_once)
    for seed in range(20):
        drawn, number = interleave(sizes, weights, stopping, seed)
        assert (drawn.tolist(), number.tolist()) == naive(sizes, weights, stopping, seed)


@pytest.mark.parametrize("stopping", STRATEGIES)
def test_draws_are_those_of_the_library(stopping: Any) -> None:
    datasets = pytest.importorskip("datasets")
    sizes, weights = [30, 400, 90], [0.5, 0.3, 0.2]
    parts = [
        datasets.Dataset.from_dict({"dataset": [i] * size, "number": list(range(size))})
        for i, size in enumerate(sizes)
    ]
    for seed in range(5):
        theirs = datasets.interleave_datasets(
            parts, probabilities=weights, seed=seed, stopping_strategy=stopping
        )
        drawn, number = interleave(sizes, weights, stopping, seed)
        assert drawn.tolist() == list(theirs["dataset"])
        assert number.tolist() == list(theirs["number"])


def test_proportions_over_many_draws() -> None:
    drawn, number = interleave([10**6, 10**5], [3, 1], "all_exhausted", 1)
    assert abs(float((drawn == 0).mean()) - 0.75) < 0.002  # +- 0.0004
    counts = np.bincount(number[drawn == 1], minlength=10**5)
    assert counts.max() - counts.min() == 1
    assert np.bincount(number[drawn == 0]).tolist() == [1] * 10**6


# In a data section


@pytest.fixture
def pair(folder: Path) -> list[str]:
    return [f"{folder}/a.jsonl", f"{folder}/b.jsonl"]


def places(found: Prepared) -> list[str]:
    return [one.place.rpartition("/")[2] for one in found.train]


def test_the_first_that_ends_ends_the_epoch(pair: list[str], tmp_path: Path) -> None:
    found = places(prepared(tmp_path / "tokens", pair, weights=[0.5, 0.5]))
    assert {place for place in found if place[0] == "a"} == {f"a.jsonl:{i}" for i in range(1, 6)}
    assert found[-1][0] == "a"
    assert len(found) == len(set(found)) < 20
    assert "ab" in "".join(place[0] for place in found)  # mixed, not one after the other


def test_all_end_and_the_short_one_comes_back(pair: list[str], tmp_path: Path) -> None:
    settings = {"weights": [0.5, 0.5], "stopping": "all_exhausted"}
    found = places(prepared(tmp_path / "tokens", pair, **settings))
    counts = Counter(found)
    assert len(counts) == 20
    assert {counts[f"b.jsonl:{i}"] for i in range(1, 16)} == {1}
    often = [counts[f"a.jsonl:{i}"] for i in range(1, 6)]
    assert max(often) - min(often) <= 1 and sum(often) > 5


def test_the_order_follows_the_seed(pair: list[str], tmp_path: Path) -> None:
    def drawn(**settings: Any) -> list[str]:
        return places(prepared(tmp_path / "tokens", pair, weights=[1, 2], **settings))

    assert drawn() == drawn()
    assert drawn(seed=7) != drawn()
    assert drawn(processes=2) == drawn()
    straight = [place for place in drawn(shuffle=False) if place[0] == "b"]
    assert straight == [f"b.jsonl:{i + 1}" for i in range(len(straight))]


def test_a_folder_and_a_part_of_a_file_are_one_data_set_each(
    folder: Path, pair: list[str], tmp_path: Path
) -> None:
    settings = {"weights": [0.5, 0.5], "stopping": "all_exhausted"}
    names = [str(folder), f"{pair[1]}#30"]
    found = places(prepared(tmp_path / "tokens", names, **settings))
    counts = Counter(found)
    assert len(counts) == 20
    assert sum(counts.values()) > 50
    assert min(counts.values()) >= 1
    # once in the folder, twice among the thirty
    assert min(counts[f"b.jsonl:{i}"] for i in range(1, 16)) >= 3


def test_what_is_set_apart_is_never_drawn(pair: list[str], tmp_path: Path) -> None:
    settings = {"weights": [0.9, 0.1], "stopping": "all_exhausted", "split": 0.3}
    found = prepared(tmp_path / "tokens", pair, **settings)
    apart = {one.place.rpartition("/")[2] for one in found.val}
    assert len(apart) == 6
    assert len(apart | set(places(found))) == 20
    assert not apart & set(places(found))


def test_a_data_set_without_samples(pair: list[str], tmp_path: Path) -> None:
    empty = tiny.write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError) as caught:
        prepared(tmp_path / "tokens", [*pair, str(empty)], weights=[1, 1, 1])
    assert str(caught.value) == f"--interleave_prob: {empty} has no sample to draw"


def test_flags_of_the_command_line() -> None:
    words = ["--model", "x", "--dataset", "a.jsonl", "b.jsonl", "--interleave_prob", "0.7", "0.3"]
    config, _ = read(SftConfig, "sft", words)
    assert (config.data.weights, config.data.stopping) == ([0.7, 0.3], "first_exhausted")
    config, _ = read(SftConfig, "sft", [*words, "--stopping_strategy", "all_exhausted"])
    assert config.data.stopping == "all_exhausted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1"], "1 given for 2 data sets; write one number for each --dataset"),
        (["1", "2", "3"], "3 given for 2 data sets; write one number for each --dataset"),
        (["1", "0"], "every number should be above 0; leave out a data set that is not drawn from"),
        (["1", "much"], "'much' is not a number"),
    ],
)
def test_weights_that_cannot_be_meant(words: list[str], said: str) -> None:
    words = ["--model", "x", "--dataset", "a.jsonl", "b.jsonl", "--interleave_prob", *words]
    with pytest.raises(ConfigError) as caught:
        read(SftConfig, "sft", words)
    assert caught.value.problems == [f"--interleave_prob: {said}"]
    with pytest.raises(ValidationError):
        ConversationsSection(train=["a.jsonl"], weights=[0.5, 0.5])
