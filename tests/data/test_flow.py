"""Rows that pass by: all of them once a pass, mixed within windows, from any place on."""

from __future__ import annotations

import gc
import json
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from chat.templates import FAMILIES
from processes import fail, run
from swift.config.data import ConversationsSection
from swift.data.flow import Flow, Place, dealt, steps
from swift.data.prepare import Workshop, prepare
from swift.data.sample import Sample
from swift.data.stream import Order
from swift.errors import DataError

ORDER = Order((), 2, 2, 1, seed=3)


def flow_of(folder: Path, train: list[Path], /, **settings: Any) -> Flow:
    names = [str(path) for path in train]
    section = ConversationsSection(train=names, streaming=True, **settings)
    spec = FAMILIES["chatml"].renderer().spec
    flow = prepare(Workshop(section, spec, "chat", 200, folder, Path), names).flow
    assert flow is not None
    return flow


def of_step(step: list[Any]) -> list[str]:
    return [samples.place(int(i)) for samples, indices in step for i in indices]


def of_epoch(flow: Flow, order: Order, epochs: int = 1) -> list[list[list[str]]]:
    """Places of every step of every epoch."""
    found: list[list[list[str]]] = [[] for _ in range(epochs)]
    for step in dealt(flow, order):
        place = flow.place
        epoch = place.epoch - (place == Place(place.epoch))  # behind the last step: the next one
        if epoch == epochs:
            break
        found[epoch].append(of_step(step))
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """30 rows and 11 rows."""
    return [
        tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(30)),
        tiny.write_rows(tmp_path / "b.jsonl", tiny.chats(11)),
    ]


ALL = {f"a.jsonl:{i}" for i in range(1, 31)} | {f"b.jsonl:{i}" for i in range(1, 12)}


def short(places: list[str]) -> set[str]:
    return {place.rpartition("/")[2] for place in places}


@pytest.mark.parametrize("window", [1, 7, 41, 1000])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_an_epoch(
    files: list[Path], tmp_path: Path, window: int, packing: bool, shuffle: bool
) -> None:
    flow = flow_of(tmp_path, files, shuffle_buffer=window, packing=packing)
    first, second = of_epoch(flow, replace(ORDER, shuffle=shuffle), 2)
    for epoch in (first, second):
        assert Counter(short([p for step in epoch for p in step])) == Counter(ALL)
    if not packing:
        assert [len(step) for step in first] == [4] * 10 + [1]
        assert (first == second) == (not shuffle or window == 1)
    account = flow.ledger.accounts[str(files[0])]
    assert account.rows >= 60 and account.balanced  # as the second pass is over


def test_rows_are_mixed_within_their_window_only(files: list[Path], tmp_path: Path) -> None:
    flow = flow_of(tmp_path, files[:1], shuffle_buffer=10)
    [epoch] = of_epoch(flow, ORDER)
    lines = [int(place.rpartition(":")[2]) for step in epoch for place in step]
    windows = [lines[at : at + 10] for at in (0, 10, 20)]
    assert [sorted(window) for window in windows] == [
        list(range(at + 1, at + 11)) for at in (0, 10, 20)
    ]
    assert all(window != sorted(window) for window in windows)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("group_by_length", [False, True])
def test_it_goes_on_from_any_step(
    files: list[Path], tmp_path: Path, packing: bool, group_by_length: bool
) -> None:
    order = replace(ORDER, lengths=np.zeros(0)) if group_by_length else ORDER
    settings: dict[str, Any] = {"shuffle_buffer": 6, "packing": packing}
    whole, expected, records = flow_of(tmp_path, files, **settings), [], []
    for step in islice(dealt(whole, order), 25):
        expected.append(of_step(step))
        records.append(json.loads(json.dumps(whole.as_dict())))
    assert len({json.dumps(r["place"]) for r in records}) == 25
    for done in range(0, 24, 3):
        flow = flow_of(tmp_path, files, **settings)
        flow.go_on(records[done])
        rest = [of_step(step) for step in islice(dealt(flow, order), 24 - done)]
        assert rest == expected[done + 1 :]
        assert flow.ledger.as_dict() == whole.ledger.as_dict()


def test_windows_before_the_place_are_read_over(files: list[Path], tmp_path: Path) -> None:
    flow = flow_of(tmp_path, files, shuffle_buffer=5)
    made: list[int] = []
    encode = flow.encode

    def counting(blocks: Any, folder: Path) -> Any:
        for one in encode(blocks, folder):
            made.append(len(one.block.lines))
            yield one

    flow.encode = counting
    flow.place = Place(0, 7, 2)
    next(dealt(flow, ORDER))
    assert sum(made) <= 10


@pytest.mark.parametrize("processes", [1, 3])
def test_a_step_is_the_same_however_it_is_spread(
    files: list[Path], tmp_path: Path, processes: int
) -> None:
    def learned(order: Order, process: int) -> list[list[tuple[str, ...]]]:
        flow = flow_of(tmp_path, files, shuffle_buffer=16, packing=True)
        found = steps(flow, order, count=6, process=process)
        return [[batch.places for batch in step] for step in found]

    one = learned(Order((), 1, 6, 1), 0)
    parts = [learned(Order((), 2, 3 // processes, processes), p) for p in range(processes)]
    for number, expected in enumerate(one):
        spread = [place for part in parts for places in part[number] for place in places]
        assert sorted(spread) == sorted(place for places in expected for place in places)


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_encoders_makes_the_same_stream(tmp_path: Path, processes: int) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(60))

    def tokens(processes: int) -> list[list[int]]:
        flow = flow_of(tmp_path, [file], shuffle_buffer=7, processes=processes)
        return [
            samples[int(i)].tokens.tolist()
            for step in islice(dealt(flow, ORDER), 20)
            for samples, indices in step
            for i in indices
        ]

    assert tokens(processes) == tokens(1)


def test_weights_hold_in_every_window(files: list[Path], tmp_path: Path) -> None:
    flow = flow_of(tmp_path, files, shuffle_buffer=8, weights=[3.0, 1.0])
    [epoch] = of_epoch(flow, ORDER)
    names = [place.rpartition("/")[2][0] for step in epoch for place in step]
    assert [Counter(names[at : at + 8])["a"] for at in range(0, 40, 8)] == [6] * 5
    assert len(names) == 40  # the 30 rows of a, and 2 of b with every 6 of them


def test_all_exhausted_gives_every_row_at_least_once(files: list[Path], tmp_path: Path) -> None:
    flow = flow_of(tmp_path, files, shuffle_buffer=8, weights=[1.0, 1.0], stopping="all_exhausted")
    [epoch] = of_epoch(flow, ORDER)
    counts = Counter(place.rpartition("/")[2] for step in epoch for place in step)
    assert set(counts) == ALL
    assert all(count == 1 for place, count in counts.items() if place.startswith("a"))
    assert sum(count for place, count in counts.items() if place.startswith("b")) > 22


def test_tokens_are_removed_behind_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tiny.write_rows(tmp_path / "a.jsonl", tiny.chats(80))
    flow = flow_of(tmp_path, [file], shuffle_buffer=4)
    most = 0
    for _ in islice(dealt(flow, ORDER), 60):
        gc.collect()
        most = max(most, len(list(tmp_path.glob("swift-tokens-*/*.arrow"))))
    assert 0 < most <= 4


def test_no_row_that_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n' * 5)
    with pytest.raises(DataError, match=r"none of the 5 rows can be used"):
        flow_of(tmp_path, [file])


def test_a_stream_is_not_empty_all_at_once(tmp_path: Path) -> None:
    """A window without any usable row is passed over."""
    good = [json.dumps(row) for row in tiny.chats(4)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(['{"a": 1}'] * 5 + good[:2] + ["[]"] * 9 + good[2:]) + "\n")
    flow = flow_of(tmp_path, [file], shuffle_buffer=2)
    [epoch] = of_epoch(flow, ORDER)
    assert sorted(len(step) for step in epoch) == [4]
    assert flow.ledger.accounts[str(file)].failed.total() >= 14


def test_batches_are_those_of_the_samples(files: list[Path], tmp_path: Path) -> None:
    chosen = next(dealt(flow_of(tmp_path, files, shuffle_buffer=9), ORDER))
    inside: list[Sample] = [samples[int(i)] for samples, part in chosen for i in part]
    [found] = steps(flow_of(tmp_path, files, shuffle_buffer=9), ORDER, count=1)
    places = [place for batch in found for place in batch.places]
    assert places == [sample.place for sample in inside]
    read = [token for batch in found for token in batch.tokens[0].tolist()]
    assert read == [token for sample in inside for token in sample.tokens[:-1].tolist()]


SFT = ["--streaming", "--shuffle_buffer_size", 7, "--gradient_accumulation_steps", 2,
       "--per_device_train_batch_size", 2, "--logging_steps", 1, "--report_to", "none",
       "--learning_rate", 1e-3, "--lora_dropout", 0.1]  # fmt: skip


@pytest.mark.parametrize("more", [(), ("--packing", "--max_length", 120)], ids=["plain", "packed"])
def test_a_run_goes_on_to_the_bit(
    checkpoint: Path, rows: Path, tmp_path: Path, more: tuple[object, ...]
) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, *SFT, *more]
    run([*words, "--max_steps", 14, "--output_dir", "whole"], tmp_path)
    run([*words, "--max_steps", 14, "--save_steps", 5, "--output_dir", "parts"], tmp_path)
    for late in (tmp_path / "parts/checkpoint-10", tmp_path / "parts/checkpoint-14"):
        late.rename(late.with_name(f"gone-{late.name}"))
    run(
        [*words, "--max_steps", 14, "--save_steps", 5, "--output_dir", "parts", "--resume"],
        tmp_path,
    )
    ends = [
        (tmp_path / name / "checkpoint-14/adapter_model.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert ends[0] == ends[1]
    ledgers = [json.loads((tmp_path / n / "ledger.json").read_text()) for n in ("whole", "parts")]
    assert ledgers[0] == ledgers[1]
    lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["train/epoch"] for line in lines if "train/epoch" in line]
    assert all(a <= b for a, b in pairwise(epochs)) and epochs[-1] >= 1


def test_a_step_of_a_stream_is_traced(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, *SFT, "--output_dir", "run"]
    run([*words, "--max_steps", 12], tmp_path)
    text = run(["trace", "run", "--step", 12, "--text"], tmp_path)
    assert "Step 12: of a stream, epoch 2" in text and "as metrics.jsonl says" in text
    assert "chats.jsonl:" in text


def test_two_processes_are_one(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--streaming", "--packing",
             "--max_length", 120, "--shuffle_buffer_size", 12, "--max_steps", 4, "--logging_steps",
             1, "--report_to", "none"]  # fmt: skip
    run([*words, "--gradient_accumulation_steps", 4, "--output_dir", "one"], tmp_path)
    run([*words, "--gradient_accumulation_steps", 2, "--output_dir", "two"], tmp_path, 2)
    losses = [
        [json.loads(line)["train/loss"] for line in file.read_text().splitlines()]
        for file in (tmp_path / "one/metrics.jsonl", tmp_path / "two/metrics.jsonl")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_a_stream_needs(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--streaming"]
    for more, why in (
        ([], "--max_steps: is needed with --streaming"),
        (["--max_steps", 2, "--save_strategy", "epoch"], "--save_strategy: nobody knows how long"),
        (["--max_steps", 2, "--split_dataset_ratio", 0.1], "--split_dataset_ratio: a stream has"),
        (["--max_steps", 2, "--packing_window", 9], "--packing_window: a stream packs within"),
    ):
        code, text = fail([*words, *more], tmp_path)
        assert code == 2 and why in text


def test_what_a_stream_would_do(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["--model", checkpoint, "--dataset", rows, *SFT, "--max_steps", 3]
    text = run(["check", *words], tmp_path)
    assert "the stream begins with 7 to train on" in text and "of a stream" in text
    text = run(["inspect", *words, "--dry_run"], tmp_path)
    assert "7 to train on" in text
