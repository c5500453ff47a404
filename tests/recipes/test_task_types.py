"""``swift sft --task_type ...`` end to end: what is learned holds for rows that were held out, and
transformers reads the same from the checkpoint.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

import tiny
from processes import fail, run

WORDS = ["swim", "eat", "Paris", "month", "drink", "three", "name", "land"]
COMMON = (
    "--num_train_epochs",
    30,
    *("--report_to", "none", "--learning_rate", 3e-3, "--tuner_type", "full"),
    *("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1),
)


def train(where: Path, model: Path, rows: list[Any], held: list[Any], *words: Any) -> list[Any]:
    """Lines of metrics of a run in ``where/run``, judged at its end by rows that were held out."""
    data = tiny.write_rows(where / "rows.jsonl", rows)
    judge = tiny.write_rows(where / "held.jsonl", held)
    said = ["--dataset", data, "--val_dataset", judge, "--output_dir", "run", *words]
    run(["sft", "--model", model, *COMMON, *said], where)
    lines = (where / "run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def final(lines: list[Any], name: str) -> float:
    return float([line for line in lines if f"eval/{name}" in line][-1][f"eval/{name}"])


def tokens(*turns: str) -> torch.Tensor:
    """Turns of user and assistant, as the template has them before it is the assistant's."""
    tokenizer: PreTrainedTokenizerFast = tiny.make_tokenizer()
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=len(turns) % 2 == 1
    )
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def groups(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "anchor": f"Number {i}: tell me of {word}, please.",
            "positive": f"It was {word} that {i * 7 % 50} people meant.",
            "negative": f"It was {WORDS[(w + 1 + i % 3) % 8]} that nobody meant.",
        }
        for i in range(first, first + count)
        for w, word in enumerate(WORDS)
    ]


@torch.no_grad()
def vectors(model: Any, texts: list[str]) -> torch.Tensor:
    states = [model(input_ids=tokens(text)).last_hidden_state[0, -1] for text in texts]
    return F.normalize(torch.stack(states), dim=1)


def test_embeddings_find_what_was_held_out(checkpoint: Path, tmp_path: Path) -> None:
    held = groups(40, 1)
    words = ["--task_type", "embedding", "--max_steps", 60, "--per_device_eval_batch_size", 8]
    lines = train(tmp_path, checkpoint, groups(0, 12), held, *words, "--mrl_dims", 16)
    found = []
    for folder in (checkpoint, tmp_path / "run/checkpoint-60"):
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        asked, given, other = (
            vectors(model, [row[name] for row in held])
            for name in ("anchor", "positive", "negative")
        )
        near = asked @ torch.cat([given, other]).T
        found.append(float((near.argmax(1) == torch.arange(8)).float().mean()))
    assert found[0] <= 0.5 < 0.9 <= found[1]
    assert final(lines, "top1") == pytest.approx(found[1])
    own = float((asked * given).sum(1).mean())
    assert final(lines, "similarity/positive") == pytest.approx(own, rel=1e-5)


def labelled(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"Number {i}: tell me of {WORDS[i % 8]}, please.", "label": i % 8 % 3}
        for i in range(first, first + count)
    ]


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_classes_of_what_was_held_out(tuner: str, checkpoint: Path, tmp_path: Path) -> None:
    held = labelled(200, 16)
    words = ["--task_type", "seq_cls", "--num_labels", 3, "--max_steps", 60, "--tuner_type", tuner]
    rate = ["--learning_rate", 5e-3 if tuner == "lora" else 3e-3]
    lines = train(tmp_path, checkpoint, labelled(0, 96), held, *words, *rate)
    folder = tmp_path / "run/checkpoint-60"
    if tuner == "full":
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.problem_type == "single_label_classification"
    else:
        base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3)
        model = PeftModel.from_pretrained(base, str(folder))
    model.eval()
    loss, right = 0.0, 0
    for row in held:
        with torch.no_grad():
            logits = model(input_ids=tokens(row["text"])).logits
        label = torch.tensor([row["label"]])
        loss += float(F.cross_entropy(logits.float(), label)) / len(held)
        right += int(logits.argmax()) == row["label"]
    assert right / len(held) >= 0.8
    assert final(lines, "accuracy") == pytest.approx(right / len(held))
    assert final(lines, "loss") == pytest.approx(loss, rel=1e-4, abs=1e-6)
    asked = tiny.write_rows(tmp_path / "asked.jsonl", [{"text": row["text"]} for row in held])
    where = "--model" if tuner == "full" else "--adapters"
    for line, row in zip(scored(tmp_path, where, folder, asked), held, strict=True):
        with torch.no_grad():
            logits = model(input_ids=tokens(row["text"])).logits[0]
        assert line["label"] == int(logits.argmax())
        assert line["probabilities"] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


def scored(where: Path, *words: Any) -> list[dict[str, Any]]:
    """What ``swift infer`` says of rows; asked twice, it says nothing twice."""
    flag, folder, rows = words
    said = ["infer", flag, folder, "--val_dataset", rows, "--result_path", "result.jsonl"]
    run(said, where)
    assert "(0 rows, 0 could not" in run(said, where)
    return [json.loads(line) for line in (where / "result.jsonl").read_text().splitlines()]


def test_what_gives_scores_does_not_chat(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classes"
    AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3).save_pretrained(
        folder
    )
    tiny.make_tokenizer().save_pretrained(folder)
    code, text = fail(["infer", "--model", folder], tmp_path)
    assert code == 2 and "gives scores, and does not chat" in text
    code, text = fail(["deploy", "--model", folder, "--port", 0], tmp_path)
    assert code == 2 and "gives scores and does not write" in text
    rows = tiny.write_rows(tmp_path / "odd.jsonl", [{"text": 7}, {"other": 1}, {"text": "Hi"}])
    bad, worse, good = scored(tmp_path, "--model", folder, rows)
    assert bad["error"] and worse["error"] and good["label"] in (0, 1, 2)


@pytest.mark.parametrize(
    ("problem", "label"),
    [
        ("regression", lambda i: [i % 8 / 4, 0.5]),
        ("multi_label_classification", lambda i: [j for j in range(2) if i % 8 >> j & 1]),
    ],
)
def test_numbers_and_several_classes(
    problem: str, label: Any, checkpoint: Path, tmp_path: Path
) -> None:
    rows = [{**row, "label": label(i)} for i, row in enumerate(labelled(0, 48))]
    words = ["--task_type", "seq_cls", "--num_labels", 2, "--problem_type", problem]
    lines = train(tmp_path, checkpoint, rows, rows[:8], *words, "--max_steps", 60)
    steps = [line["train/loss"] for line in lines if "train/loss" in line]
    assert steps[-1] < 0.5 * steps[0]


def queries(first: int, count: int) -> list[dict[str, Any]]:
    """Who asks for a person wants no place: neither query nor document says enough alone."""
    asked = ["Where was it", "Who was it"]
    told = ["It was Paris, the capital", "My name is Apus"]
    rows = []
    for i in range(first, first + count):
        wrong = [f"{told[1 - i % 2]}; {(i + 5 * j) // 2 % 30}." for j in range(1, 4)]
        documents = [f"{told[i % 2]}; {i // 2 % 30}.", *wrong]
        row = {
            "query": f"{asked[i % 2]}, {i // 2}?",
            "documents": documents,
            "labels": [1, 0, 0, 0],
        }
        rows.append(row)
    return rows


@pytest.mark.parametrize("loss", ["pointwise_reranker", "listwise_reranker"])
def test_documents_are_ranked(loss: str, checkpoint: Path, tmp_path: Path) -> None:
    held = queries(100, 8)
    words = ["--task_type", "reranker", "--loss_type", loss, "--max_steps", 40]
    lines = train(tmp_path, checkpoint, queries(0, 64), held, *words)
    folder = tmp_path / "run/checkpoint-40"
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected, right = 0.0, 0
    for row in held:
        with torch.no_grad():
            read = [model(input_ids=tokens(row["query"], one)).logits for one in row["documents"]]
        scores, labels = torch.cat(read)[:, 0].double(), torch.tensor(row["labels"]).double()
        cost = F.binary_cross_entropy_with_logits(scores, labels)
        expected += float(-scores.log_softmax(0)[0] if loss.startswith("list") else cost) / 8
        right += int(scores.argmax()) == 0
    assert right / 8 >= 0.75
    assert final(lines, "top1") == pytest.approx(right / 8)
    assert final(lines, "loss") == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for line, row in zip(
        scored(tmp_path, "--model", folder, tmp_path / "held.jsonl"), held, strict=True
    ):
        with torch.no_grad():
            read = [model(input_ids=tokens(row["query"], one)).logits for one in row["documents"]]
        assert line["scores"] == pytest.approx(torch.cat(read)[:, 0].tolist(), abs=1e-5)


@pytest.mark.parametrize("loss", ["pointwise_reranker", "listwise_reranker"])
def test_documents_are_ranked_by_a_model_that_writes(
    loss: str, checkpoint: Path, tmp_path: Path
) -> None:
    """The score is read from transformers' causal model, behind the question of Qwen3-Reranker."""
    held = queries(100, 8)
    words = ["--task_type", "generative_reranker", "--loss_type", loss, "--max_steps", 40]
    words += ["--task.positive_token", "y", "--task.negative_token", "n", "--tuner_type", "full"]
    lines = train(tmp_path, checkpoint, queries(0, 64), held, *words)
    folder = tmp_path / "run/checkpoint-40"
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer: PreTrainedTokenizerFast = tiny.make_tokenizer()
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in "yn")
    judge = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".'
    )
    task = "Given a web search query, retrieve relevant passages that answer the query"
    expected, right = 0.0, 0
    for row in held:
        found = []
        for one in row["documents"]:
            text = f"<Instruct>: {task}\n<Query>: {row['query']}\n<Document>: {one}"
            said = [{"role": "system", "content": judge}, {"role": "user", "content": text}]
            asked = tokenizer.apply_chat_template(
                said, add_generation_prompt=True, return_tensors="pt", return_dict=False
            )
            with torch.no_grad():
                logits = model(input_ids=asked).logits[0, -1].double()
            found.append(logits[yes] - logits[no])
        scores, labels = torch.stack(found), torch.tensor(row["labels"]).double()
        cost = F.binary_cross_entropy_with_logits(scores, labels)
        expected += float(-scores.log_softmax(0)[0] if loss.startswith("list") else cost) / 8
        right += int(scores.argmax()) == 0
    assert right / 8 >= 0.75
    assert final(lines, "top1") == pytest.approx(right / 8)
    assert final(lines, "loss") == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_answers_that_are_no_tokens_are_named(checkpoint: Path, tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "rows.jsonl", queries(0, 8))
    words = ["sft", "--model", checkpoint, "--dataset", data, "--task_type", "generative_reranker"]
    code, text = fail([*words, "--task.positive_token", "certainly"], tmp_path)
    assert code == 2 and "--task.positive_token: 'certainly' is no token" in text


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seq_cls", "embedding", "reranker"])
def test_two_processes_equal_one(task: str, checkpoint: Path, tmp_path: Path) -> None:
    rows = {"seq_cls": labelled(0, 20), "embedding": groups(0, 3)[:20], "reranker": queries(0, 20)}
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows[task])  # the last step is uneven
    labels = ["--num_labels", 3] if task == "seq_cls" else []
    words = ["sft", "--model", checkpoint, "--dataset", data, "--task_type", task, *labels]
    words += ["--report_to", "none", "--tuner_type", "full", "--logging_steps", 1]
    words += ["--num_train_epochs", 1, "--per_device_train_batch_size", 3]
    run([*words, "--gradient_accumulation_steps", 4, "--output_dir", "one"], tmp_path)
    two = [*words, "--gradient_accumulation_steps", 2, "--output_dir", "two"]
    run(two, tmp_path, processes=2)
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    for mine, first in zip(ours, theirs, strict=True):
        assert math.isfinite(mine["train/loss"])
        for key in ("train/loss", "train/grad_norm"):
            assert mine[key] == pytest.approx(first[key], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "row", "said"),
    [
        (["seq_cls"], {"text": "a", "label": 1}, "--num_labels"),
        (["seq_cls", "--num_labels", 2], {"text": "a", "label": 2}, "rows.jsonl:1: label 2"),
        (["seq_cls", "--num_labels", 2], {"text": "a", "label": [0, 1]}, "2 labels"),
        (["seq_cls", "--num_labels", 2], {"query": "a", "response": "b"}, "rows.jsonl"),
        (["embedding", "--mrl_dims", 99], {"anchor": "a", "positive": "b"}, "have 48"),
        (["embedding", "--loss_type", "dpo"], {"anchor": "a", "positive": "b"}, "--loss_type"),
        (["reranker"], {"query": "a", "documents": ["b"], "labels": [3]}, "relevance 3"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[Any], row: dict[str, Any], said: str, checkpoint: Path, tmp_path: Path
) -> None:
    data = tiny.write_rows(tmp_path / "rows.jsonl", [row])
    line = ["sft", "--model", checkpoint, "--dataset", data, *COMMON, "--task_type", *words]
    code, text = fail([*line, "--output_dir", "run"], tmp_path)
    assert code in (1, 2) and said in text and "Traceback" not in text


def test_what_a_run_would_read_is_shown(checkpoint: Path, tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "rows.jsonl", groups(0, 1))
    words = ["--model", checkpoint, "--dataset", data, "--task_type", "embedding"]
    text = run(["inspect", *words], tmp_path)
    assert "tell me of swim" in text and "that nobody meant" in text
    text = run(["check", *words], tmp_path)
    assert "tell me of" in text
