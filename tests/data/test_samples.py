"""Samples that fit: nothing is lost unseen, and every row is accounted for."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from chat.templates import FAMILIES
from swift.chat.message import Rendered
from swift.config.data import ConversationsSection
from swift.data import sample
from swift.data.encode import Encoded
from swift.data.ledger import Account, Ledger
from swift.data.prepare import Prepared, Workshop, prepare
from swift.data.sample import Samples, collect
from swift.data.source import Block, Source
from swift.data.tokens import compact, table_of, write_tokens
from swift.errors import ConfigError, DataError

MODES = ["drop", "cut-left", "cut-right", "split"]
Row = list[Rendered] | str  # samples of a row, or why it failed


def encoded(folder: Path, rows: list[Row], name: str = "a.jsonl") -> Encoded:
    """A block's file, as the encoder writes it."""
    made = [
        (index, compact(one))
        for index, row in enumerate(rows)
        for one in (row if isinstance(row, list) else [])
    ]
    path = folder / f"{name}.arrow"
    failures = [(i, row) for i, row in enumerate(rows) if isinstance(row, str)]
    write_tokens(path, table_of(made), failures)
    block = Block(Source(Path(name), name), list(range(10, 10 + len(rows))), [])
    return Encoded(path, block, failures)


def random_rows(seed: int, count: int = 150, longest: int = 60) -> list[Row]:
    """Rows of one or two samples, or failed ones; every token of all is another."""
    random = np.random.default_rng(seed)
    token = iter(range(1, 10**6))
    rows: list[Row] = []
    for _ in range(count):
        if random.random() < 0.1:
            rows.append(f"reason {random.integers(3)}")
            continue
        made = []
        for _ in range(random.choice([1, 1, 1, 2])):
            length = int(random.integers(1, longest))
            weights = random.choice([0.0, 0.0, 1.0, 0.5], size=length)
            weights[random.integers(length)] = 1.0
            made.append(Rendered([next(token) for _ in range(length)], weights.tolist()))
        rows.append(made)
    return rows


def learned(samples: Samples) -> list[int]:
    """Every token that is predicted and learned, as often as it is."""
    return [
        token
        for one in samples
        for token in one.tokens[1:][one.weights[1:] > 0].tolist()
    ]  # fmt: skip


def learnable(rows: list[Row]) -> list[int]:
    """Every token with a weight that something can predict: all but the first of a sample."""
    return [
        token
        for row in rows
        if isinstance(row, list)
        for one in row
        for token, weight in zip(one.tokens[1:], one.weights[1:], strict=True)
        if weight > 0
    ]


@pytest.mark.parametrize("most", [2, 3, 7, 16, 59, 100])
def test_split_learns_every_token_exactly_once(tmp_path: Path, most: int) -> None:
    rows = random_rows(most)
    samples = collect([encoded(tmp_path, rows)], most, "split", Ledger(), strict=False)
    assert sorted(learned(samples)) == sorted(learnable(rows))
    assert samples.lengths_S.max() <= most


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("most", [2, 16, 100])
def test_every_mode_does_what_a_plain_loop_does(tmp_path: Path, mode: str, most: int) -> None:
    rows = random_rows(5)
    ledger = Ledger()
    samples = collect([encoded(tmp_path, rows)], most, mode, ledger, strict=False)
    expected: list[tuple[list[int], list[float], str]] = []
    counts: Counter[str] = Counter(rows=len(rows))
    for number, row in enumerate(rows):
        if isinstance(row, str):
            counts["failed"] += 1
            continue
        place, before = f"a.jsonl:{10 + number}", len(expected)
        long = False
        for one in row:
            end = max(i for i, w in enumerate(one.weights) if w > 0) + 1
            tokens, weights = one.tokens[:end], one.weights[:end]
            long |= end > most
            pieces = {
                "drop": [] if end > most else [(0, end)],
                "cut-left": [(max(0, end - most), end)],
                "cut-right": [(0, min(end, most))],
                "split": [(at, min(at + most, end)) for at in range(0, max(end - 1, 1), most - 1)],
            }[mode]
            expected += [
                (tokens[a:b], weights[a:b], place) for a, b in pieces if any(weights[a + 1 : b])
            ]
        kept = len(expected) > before
        shortened = "split" if mode == "split" else "cut"
        counts["dropped" if not kept else shortened if long else "kept"] += 1
    found = [(one.tokens.tolist(), one.weights.tolist(), one.place) for one in samples]
    assert found == expected
    account = ledger.account("a.jsonl")
    assert account.numbers == {
        "rows": len(rows),
        **{name: counts[name] for name in ("kept", "cut", "split", "dropped", "failed")},
        "samples": len(expected),
    }
    assert ledger.failed == counts["failed"]
    assert account.balanced
    assert [len(one.tokens) for one in samples] == samples.lengths_S.tolist()
    assert samples.learned_S.tolist() == [(one.weights[1:] > 0).sum() for one in samples]


def test_a_long_row_may_be_an_error(tmp_path: Path) -> None:
    rows: list[Row] = [[Rendered([1] * n, [1.0] * n)] for n in (5, 9, 12)]
    with pytest.raises(DataError) as caught:
        collect([encoded(tmp_path, rows)], 8, "error", Ledger(), strict=False)
    assert str(caught.value) == (
        "a.jsonl:11: 9 tokens, more than max_length 8; raise it, or set --truncation_strategy drop"
    )
    assert len(collect([encoded(tmp_path, rows)], 12, "error", Ledger(), strict=False)) == 3


def test_reasons_have_their_place(tmp_path: Path) -> None:
    rows: list[Row] = [
        "not JSON",
        [Rendered([1] * 9, [1.0] * 9)],
        [Rendered([1, 2], [1.0, 0.0])],
        [Rendered([1, 2], [0.0, 1.0])],
    ]
    ledger = Ledger()
    collect([encoded(tmp_path, rows)], 8, "drop", ledger, strict=False)
    assert ledger.failures == [
        "a.jsonl:10: not JSON",
        "a.jsonl:11: too long",
        "a.jsonl:12: nothing to learn",
    ]
    ledger = Ledger()
    cut: list[Row] = [[Rendered([1] * 9, [1.0] + [0.0] * 7 + [1.0])]]
    collect([encoded(tmp_path, cut)], 8, "cut-right", ledger, strict=False)
    assert ledger.failures == ["a.jsonl:10: nothing to learn once cut"]


def test_strict_stops_at_the_first_row_that_fails(tmp_path: Path) -> None:
    rows: list[Row] = [[Rendered([1, 2], [1.0, 1.0])], "not JSON", "other"]
    with pytest.raises(DataError, match=r"^a\.jsonl:11: not JSON$"):
        collect([encoded(tmp_path, rows)], 8, "drop", Ledger(), strict=True)


def test_no_rows_are_no_samples(tmp_path: Path) -> None:
    ledger = Ledger()
    assert len(collect([], 8, "drop", ledger, strict=False)) == 0
    assert len(collect([encoded(tmp_path, ["bad"])], 8, "split", ledger, strict=False)) == 0
    assert ledger.account("a.jsonl").balanced


def many_blocks(folder: Path) -> list[Encoded]:
    return [encoded(folder, random_rows(i, 20), f"{i}.jsonl") for i in range(12)]


def test_samples_of_many_blocks_are_read_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "_OPEN_BLOCKS", 3)
    samples = collect(many_blocks(tmp_path), 40, "drop", Ledger(), strict=False)
    forward = [(one.tokens.tolist(), one.place) for one in samples]
    order = np.random.default_rng(0).permutation(len(samples))
    assert [(samples[i].tokens.tolist(), samples[i].place) for i in order] == [
        forward[i] for i in order
    ]
    assert len(samples._open) <= 3


def test_a_selection_is_those_samples_in_that_order(tmp_path: Path) -> None:
    samples = collect(many_blocks(tmp_path), 40, "drop", Ledger(), strict=False)
    chosen = np.array([5, 3, 3, 0])
    picked = samples.select(chosen)
    assert [one.tokens.tolist() for one in picked] == [samples[i].tokens.tolist() for i in chosen]
    assert picked.learned_S.tolist() == samples.learned_S[chosen].tolist()


def test_a_fingerprint_names_the_samples_and_their_order(tmp_path: Path) -> None:
    samples = collect(many_blocks(tmp_path), 40, "drop", Ledger(), strict=False)
    again = collect(many_blocks(tmp_path), 40, "drop", Ledger(), strict=False)
    every = np.arange(len(samples))
    assert again.fingerprint == samples.fingerprint == samples.select(every).fingerprint
    others = [
        samples.select(every[::-1]),
        samples.select(every[1:]),
        collect(many_blocks(tmp_path)[1:], 40, "drop", Ledger(), strict=False),
        collect(many_blocks(tmp_path), 39, "cut-left", Ledger(), strict=False),
    ]
    assert len({samples.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_samples_travel_to_another_process(tmp_path: Path) -> None:
    samples = collect(many_blocks(tmp_path), 40, "drop", Ledger(), strict=False)
    assert samples[7].place
    again = pickle.loads(pickle.dumps(samples))
    assert again.fingerprint == samples.fingerprint
    assert again[7].tokens.tolist() == samples[7].tokens.tolist()


# The ledger


def test_a_ledger_that_does_not_add_up_is_our_fault() -> None:
    ledger = Ledger()
    ledger.account("a").rows = 1
    with pytest.raises(AssertionError, match="the ledger of a does not add up"):
        ledger.check()


def test_failures_are_counted_all_and_written_out_up_to_a_bound() -> None:
    ledger = Ledger()
    for i in range(3000):
        ledger.account("a").fail(f"a:{i}", "bad")
    assert ledger.failed == 3000
    assert len(ledger.failures) == 1000
    other = Ledger()
    other.account("a").fail("a:x", "worse")
    ledger.add(other)
    assert dict(ledger.account("a").failed) == {"bad": 3000, "worse": 1}
    assert len(ledger.failures) == 1000
    assert json.loads(json.dumps(ledger.as_dict()))["a"]["failed"] == {"bad": 3000, "worse": 1}


def test_accounts_add_up_to_one() -> None:
    one = Account(rows=4, kept=1, cut=1, split=1, dropped=Counter(a=1), samples=2, places=["x"])
    one.add(Account(rows=2, kept=1, failed=Counter(b=1), samples=1, places=["y"]))
    assert one == Account(6, 2, 1, 1, Counter(a=1), Counter(b=1), 3, ["x", "y"])
    assert one.balanced


# A data section


def prepared(cache: Path, train: list[str], /, **settings: Any) -> Prepared:
    section = ConversationsSection(train=train, **settings)
    workshop = Workshop(section, FAMILIES["chatml"].renderer().spec, "chat", 200, cache, Path)
    return prepare(workshop, section.train)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.mark.parametrize("overflow", MODES)
@pytest.mark.parametrize("learn", ["default", "last_round", "all"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_ledger_adds_up_in_every_combination(
    tmp_path: Path, cache: Path, overflow: Any, learn: Any, system: str | None
) -> None:
    rows: list[Any] = tiny.chats(60)
    rows[7], rows[20] = {"messages": []}, {"mesages": []}
    for length in (50, 200, 1000):
        said = "so it is. " * length
        rows.append({"query": "long", "response": said})
        rows.append({"query": said, "response": "yes"})
    file = tiny.write_rows(tmp_path / "a.jsonl", rows)
    settings = {"overflow": overflow, "learn": learn, "system": system}
    found = prepared(cache, [str(file)], **settings)
    account = found.ledger.account(str(file))
    assert account.rows == 66
    assert sum(account.failed.values()) == 2
    gone = sum(account.dropped.values())
    used = account.kept + account.cut + account.split
    assert used + gone == 64
    assert account.cut == 0 or overflow != "split"
    assert account.samples == len(found.train)
    places = {one.place for one in found.train}
    assert len(places) == used
    assert {f"{file}:8", f"{file}:21"} & places == set()
    assert len(account.places) == gone + 2
    assert found.train.lengths_S.max() <= 200


def test_evaluation_rows_of_their_own(rows: Path, tmp_path: Path, cache: Path) -> None:
    val = tiny.write_rows(tmp_path / "val.jsonl", [*tiny.chats(5), {"messages": []}])
    found = prepared(cache, [str(rows)], val=[str(val)], split=0.5)
    assert (len(found.train), len(found.val)) == (40, 5)
    assert {one.place for one in found.val} == {f"{val}:{i}" for i in range(1, 6)}
    assert found.ledger.as_dict()[str(val)]["rows"] == 6
    both = prepared(cache, [str(rows)], val=[str(rows)])
    assert both.ledger.account(str(rows)).rows == 80


def test_a_share_set_apart_for_evaluation(rows: Path, cache: Path) -> None:
    found = prepared(cache, [str(rows)], split=0.25)
    train, val = ([one.place for one in part] for part in (found.train, found.val))
    assert (len(train), len(val)) == (30, 10)
    assert sorted(train + val) == sorted(f"{rows}:{i}" for i in range(1, 41))
    assert val != sorted(train + val)[:10]
    again = prepared(cache, [str(rows)], split=0.25)
    assert again.val.fingerprint == found.val.fingerprint
    other = prepared(cache, [str(rows)], split=0.25, seed=7)
    assert other.val.fingerprint != found.val.fingerprint
    assert len(prepared(cache, [str(rows)], split=0.001).val) == 1


def test_fewer_rows_than_there_are(rows: Path, cache: Path) -> None:
    found = prepared(cache, [f"{rows}#7"])
    places = [one.place for one in found.train]
    assert len(set(places)) == len(places) == 7
    assert found.ledger.account(str(rows)).rows == 7


@pytest.mark.parametrize("take", [40, 41, 100, 205])
def test_more_rows_than_there_are(rows: Path, cache: Path, take: int) -> None:
    found = prepared(cache, [f"{rows}#{take}"])
    counts = Counter(one.place for one in found.train)
    assert len(found.train) == take
    assert set(counts.values()) <= {take // 40, -(-take // 40)}
    assert len(counts) == 40
    assert found.ledger.account(str(rows)).rows == 40


def test_several_files_keep_their_order(rows: Path, tmp_path: Path, cache: Path) -> None:
    other = tiny.write_rows(tmp_path / "other.jsonl", tiny.chats(3))
    found = prepared(cache, [str(other), f"{rows}#2", str(other)])
    files = [Path(one.place.rpartition(":")[0]).name for one in found.train]
    assert files == ["other.jsonl"] * 3 + ["chats.jsonl"] * 2 + ["other.jsonl"] * 3


def test_nothing_usable_says_why(rows: Path, tmp_path: Path, cache: Path) -> None:
    bad = tiny.write_rows(tmp_path / "bad.jsonl", [{"messages": []}] * 9)
    empty = tiny.write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError) as caught:
        prepared(cache, [str(bad)])
    message = str(caught.value).splitlines()
    assert message[0] == "none of the 9 rows can be used:"
    assert message[1] == f"  {bad}:1: there are no messages"
    assert message[-1] == "  ... and 4 more"
    with pytest.raises(DataError, match=r"^no rows in .*empty\.jsonl$"):
        prepared(cache, [str(empty)])
    with pytest.raises(DataError, match=r"^--val_dataset: none of the 9 rows can be used"):
        prepared(cache, [str(rows)], val=[str(bad)])
    with pytest.raises(DataError, match="leaves nothing to train on"):
        prepared(cache, [f"{rows}#1"], split=0.5)


def test_files_that_do_not_exist_are_named_with_their_flag(rows: Path, cache: Path) -> None:
    from swift.hub.locate import locate_dataset

    section = ConversationsSection(train=[str(rows)], val=["absent.jsonl", "gone.csv"])
    spec = FAMILIES["chatml"].renderer().spec
    workshop = Workshop(section, spec, "chat", 200, cache, locate_dataset)
    with pytest.raises(ConfigError) as caught:
        prepare(workshop, section.train)
    assert caught.value.problems == [
        "--val_dataset: absent.jsonl does not exist",
        "--val_dataset: gone.csv does not exist",
    ]


def test_the_cache_may_be_turned_off(rows: Path, cache: Path) -> None:
    prepared(cache, [str(rows)])
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    prepared(cache, [str(rows)], cache=False)
    assert all(path.stat().st_mtime_ns > when for path, when in before.items())
