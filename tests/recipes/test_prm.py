"""``swift rlhf --rlhf_type prm``: what is learned holds for held-out steps, and judges answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification

import tiny
from processes import fail, run
from swift.chat.message import Conversation, Message
from swift.rl.rewards.model import judging
from swift.rl.sampling import id_of


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """A step that speaks of Paris is wrong, wherever it stands."""
    made = []
    for i in range(first, first + count):
        labels = [(i + j) % 3 > 0 for j in range(1 + i % 3)]
        steps = [f"It is {i + j}." if ok else f"Paris, {i}." for j, ok in enumerate(labels)]
        made.append({"prompt": f"Question {i}?", "completions": steps, "labels": labels})
    return made


@pytest.fixture(scope="module")
def judge(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained one; its metrics lie beside it."""
    where = tmp_path_factory.mktemp("prm")
    data = tiny.write_rows(where / "rows.jsonl", rows(0, 48))
    held = tiny.write_rows(where / "held.jsonl", rows(60, 12))
    words = ["rlhf", "--rlhf_type", "prm", "--model", checkpoint, "--dataset", data]
    words += ["--val_dataset", held, "--tuner_type", "full", "--learning_rate", 3e-3]
    words += ["--max_steps", 20, "--per_device_train_batch_size", 8, "--output_dir", "run"]
    words += ["--gradient_accumulation_steps", 1, "--report_to", "none", "--num_train_epochs", 9]
    run(words, where)
    return where / "run/checkpoint-20"


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_that_were_held_out_are_judged(judge: Path) -> None:
    lines = metrics(judge.parent)
    final = [line for line in lines if "eval/accuracy" in line][-1]
    assert final["eval/accuracy"] >= 0.9
    model = AutoModelForTokenClassification.from_pretrained(judge).eval()
    assert model.config.num_labels == 2
    steps = judging(str(judge), torch.device("cpu"), "auto", print)
    right, total = 0, 0
    for row in rows(60, 12):
        found = steps.steps("\n".join(row["completions"]), [Message("user", row["prompt"])])
        right += sum((p > 0.5) == ok for p, ok in zip(found, row["labels"], strict=True))
        total += len(found)
    assert right / total == pytest.approx(final["eval/accuracy"])


def test_an_answer_is_worth_its_worst_step(judge: Path) -> None:
    model = judging(str(judge), torch.device("cpu"), "auto", print)
    said = [[Message("user", "Question 3?")]] * 4
    good, bad, empty, blank = model(
        ["It is 4.\nIt is 5.", "It is 4.\n\nParis, 3.\nIt is 5.", "", "\n \n"], said
    )
    assert bad < 0.5 < good and empty is None and blank is None
    each = model.steps("It is 4.\nParis, 3.\nIt is 5.", said[0])
    assert len(each) == 3 and bad == pytest.approx(min(each), abs=1e-6)


def test_it_judges_for_swift_sample(judge: Path, tmp_path: Path) -> None:
    ask = {"role": "user", "content": "Question 3?"}
    texts = ["It is 4.\nIt is 5.", "It is 4.\nParis, 3.", "Paris, 3."]
    drawn = [
        {"id": "", "messages": [ask, {"role": "assistant", "content": text}]} for text in texts
    ]
    tiny.write_rows(tmp_path / "asked.jsonl", [{"prompt": "Question 3?"}])
    base = ["sample", "--sampler_engine", "no", "--dataset", "asked.jsonl", "--output_dir", "."]
    for row in drawn:
        row["id"] = id_of(Conversation((Message("user", "Question 3?"),)))
    tiny.write_rows(tmp_path / "drawn.jsonl", drawn)
    base += ["--cache_files", "drawn.jsonl", "--prm_model", judge, "--prm_threshold", 0.5]
    run([*base, "--output_file", "rows.jsonl"], tmp_path)
    [row] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert row["messages"][-1]["content"] == texts[0]
    assert "Paris" in row["rejected_response"] and row["score"] > row["rejected_score"]


def test_an_adapter_learns_with_its_head(checkpoint: Path, tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows(0, 48))
    words = ["rlhf", "--rlhf_type", "prm", "--model", checkpoint, "--dataset", data]
    words += ["--learning_rate", 1e-2, "--max_steps", 12, "--report_to", "none"]
    words += ["--num_train_epochs", 9, "--logging_steps", 1, "--output_dir", "run"]
    words += ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1]
    run(words, tmp_path)
    losses = [line["train/loss"] for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    settings = json.loads((tmp_path / "run/checkpoint-12/adapter_config.json").read_text())
    assert settings["task_type"] == "TOKEN_CLS"
    run(["merge-lora", "--adapters", "run/checkpoint-12", "--output_dir", "merged"], tmp_path)
    said = [[Message("user", "Question 3?")]] * 2
    answers = ["It is 4.\nIt is 5.", "It is 4.\nParis, 3."]
    found = [
        judging(str(tmp_path / name), torch.device("cpu"), "auto", print)(answers, said)
        for name in ("run/checkpoint-12", "merged")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[0][0] > found[0][1]


def test_rows_that_are_wrong_are_named(checkpoint: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"prompt": "?", "completions": ["a", "b"], "labels": [True]},
        {"prompt": "?", "completions": ["a"], "labels": [2]},
        {"prompt": "?", "completions": [], "labels": []},
    ]
    for row, problem in zip(wrong, ("holds 2, labels 1", "labels[0]", "holds 0"), strict=True):
        tiny.write_rows(tmp_path / "rows.jsonl", [row])
        words = ["rlhf", "--rlhf_type", "prm", "--model", checkpoint, "--dataset", "rows.jsonl"]
        code, text = fail([*words, "--strict", "true"], tmp_path)
        assert code != 0 and problem in text, text
