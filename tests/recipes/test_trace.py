"""``swift trace`` lists the rows that a step of a real run learned from, or says why it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tiny
from processes import fail, run
from swift.chat.load import load_renderer
from swift.config.data import ConversationsSection
from swift.data.pack import best_fit
from swift.data.prepare import Workshop, prepare
from swift.data.sample import Samples
from swift.data.stream import Order, group, steps
from swift.data.trace import trace
from swift.errors import ConfigError
from swift.train.past import open_past

TRAIN = ["sft", "--report_to", "none", "--logging_steps", 1, "--output_dir", "run"]


def samples_of(checkpoint: Path, file: Path, cache: Path) -> Samples:
    workshop = Workshop(
        section=ConversationsSection(train=[str(file)]),
        spec=load_renderer(checkpoint).spec,
        kind="chat",
        max_length=512,
        cache=cache / "tokens",
        locate=Path,
    )
    return prepare(workshop, [str(file)]).train


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("cut", [(1, 1, 1), (2, 3, 1), (3, 1, 2), (2, 2, 3), (7, 5, 2)], ids=str)
def test_the_rows_are_those_of_the_batches(
    checkpoint: Path,
    rows: Path,
    tmp_path: Path,
    packing: bool,
    drop_last: bool,
    cut: tuple[int, int, int],
) -> None:
    samples = samples_of(checkpoint, rows, tmp_path)
    batch_size, accumulation, processes = cut
    groups = group(samples, 256 if packing else None)
    order = Order(groups, batch_size, accumulation, processes, drop_last=drop_last)
    for step in {0, order.steps_per_epoch - 1, order.steps_per_epoch, 2 * order.steps_per_epoch}:
        traced = trace(samples, order, step)
        assert traced
        for process in range(processes):
            [window] = steps(samples, order, first=step, last=step + 1, process=process)
            for number, batch in enumerate(window):
                mine = [t for t in traced if (t.process, t.micro_batch) == (process, number)]
                assert [t.place for t in mine] == list(batch.places)
                assert sum(t.weight for t in mine) == batch.weight
                assert sum(t.learned for t in mine) == len(batch.learned_N)
                assert sum(t.tokens - 1 for t in mine) == batch.count
        assert len(traced) == sum(
            len(part) for p in range(processes) for part in order.micro_batches(step, p)
        )
        if packing:
            assert_packs([(t.group, t.sample) for t in traced], samples)


def assert_packs(found: list[tuple[int, int]], samples: Samples) -> None:
    """Samples with one number are one pack, all of it."""
    packs = {tuple(pack.tolist()) for pack in best_fit(samples.lengths_S, 256)}
    numbers = {number for number, _ in found}
    assert {tuple(i for n, i in found if n == number) for number in numbers} <= packs


def listed(text: str) -> list[tuple[str, int, int]]:
    """Row, tokens and learned tokens of every line of the table."""
    lines = re.findall(r"│ (\S+) +│ +([\d,]+) │ +([\d,]+) │", text)
    return [(row, int(a.replace(",", "")), int(b.replace(",", ""))) for row, a, b in lines]


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_a_run_is_traced_step_by_step(checkpoint: Path, tmp_path: Path, packing: bool) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(12))
    words = ["--model", checkpoint, "--dataset", "d.jsonl", "--num_train_epochs", 2]
    words += ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2]
    run([*TRAIN, *words, "--max_length", 256, "--packing", str(packing).lower()], tmp_path)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    learned = {line["step"]: line["train/learned_tokens"] for line in lines}
    half = len(learned) // 2
    seen = []
    for step in range(1, half + 1):
        text = run(["trace", "run", "--step", step, "--text"], tmp_path)
        found = listed(text)
        assert sum(count for _, _, count in found) == learned[step]
        assert "learned tokens, as metrics.jsonl says" in text and "<|im_start|>user" in text
        assert ("pack" in text) == packing
        seen += [row for row, _, _ in found]
    assert sorted(seen) == sorted(f"d.jsonl:{i}" for i in range(1, 13))
    code, text = fail(["trace", "run", "--step", len(learned) + 1], tmp_path)
    assert code == 2 and f"this run has {len(learned)} steps" in text


def test_a_run_of_two_processes(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(20))
    words = ["--model", checkpoint, "--dataset", "d.jsonl", "--max_steps", 2]
    run([*TRAIN, *words, "--per_device_train_batch_size", 3], tmp_path, processes=2)
    text = run(["trace", "run", "--step", 1], tmp_path)
    assert "as metrics.jsonl says" in text
    assert set(re.findall(r"│ +(\d) │ +\d │\n", text)) == {"0", "1"}
    code, text = fail(["trace", "run", "--step", 1, "--processes", 5], tmp_path)
    assert code == 2 and "samples in a step: was 18, is 30" in text


def test_other_data_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    data = tiny.chats(8)
    tiny.write_rows(tmp_path / "d.jsonl", data)
    run([*TRAIN, "--model", checkpoint, "--dataset", "d.jsonl", "--max_steps", 1], tmp_path)
    data[3]["messages"][-1]["content"] += "!"
    tiny.write_rows(tmp_path / "d.jsonl", data)
    code, text = fail(["trace", "run", "--step", 1], tmp_path)
    assert code == 2 and "as many rows, but other text, template or settings" in text
    tiny.write_rows(tmp_path / "d.jsonl", data[:7])
    changed = "d.jsonl: 8 rows and 8 samples then, 7 rows and 7 samples now"
    code, text = fail(["trace", "run", "--step", 1], tmp_path)
    assert code == 2 and changed in text
    (tmp_path / "run/checkpoint-1/trainer/state.json").unlink()
    code, text = fail(["trace", "run", "--step", 1], tmp_path)
    assert code == 2 and changed in text


def test_without_a_checkpoint_it_says_how_sure_it_is(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(8))
    words = ["--model", checkpoint, "--dataset", "d.jsonl", "--save_only_model"]
    run([*TRAIN, *words, "--max_steps", 1], tmp_path)
    text = run(["trace", "run", "--step", 1], tmp_path)
    assert "only the numbers of rows were compared" in text and "as metrics.jsonl says" in text
    text = run(["trace", "run", "--step", 1, "--processes", 8], tmp_path)
    assert "as metrics.jsonl says" in text  # two samples each: still all eight
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(16)[8:])
    text = run(["trace", "run", "--step", 1], tmp_path)
    assert "warning: metrics.jsonl says that" in text


def test_a_run_on_texts(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Swifts sleep on the wing. " * 60)
    words = ["pt", *TRAIN[1:], "--model", checkpoint, "--dataset", "book.txt"]
    run([*words, "--max_length", 64, "--max_steps", 1], tmp_path)
    assert "as metrics.jsonl says" in run(["trace", "run", "--step", 1], tmp_path)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    code, text = fail(["trace", "nowhere", "--step", 0], tmp_path)
    assert code == 2 and "--step: 0" in text
    with pytest.raises(ConfigError, match=r"nowhere holds no config\.yaml"):
        open_past(tmp_path / "nowhere")
    for content in ("", "command: infer\n", "a: [", "model: {path: x}\n", "- 1\n"):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(ConfigError, match=r"config\.yaml is not the configuration of a run"):
            open_past(tmp_path)
    (tmp_path / "config.yaml").write_text("command: sft\nmodel: {path: x}\n")
    with pytest.raises(ConfigError, match="--dataset: is needed"):
        open_past(tmp_path)
