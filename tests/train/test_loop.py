"""The loop against a naive one, and against itself with the step cut differently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

import tiny
from processes import run

# an epsilon this large makes Adam's step nearly linear in the gradient, so that weights that agree
# show gradients that agree
LINEAR = ("--adam_epsilon", 1.0, "--learning_rate", 0.5)
FULL = ("--tuner_type", "full", "--report_to", "none", "--logging_steps", 1, "--data_seed", 3)


def train(model: Path, rows: Path, folder: Path, name: str, *more: Any, processes: int = 1) -> Path:
    words = ["sft", "--model", model, "--dataset", rows, "--output_dir", name, *FULL, *more]
    run(words, folder, processes)
    return folder / name


def weights(folder: Path) -> dict[str, torch.Tensor]:
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return load_file(last / "model.safetensors")


def metrics(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def distance(a: Path, b: Path) -> float:
    """Largest difference of a weight."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def naive(
    model: Path, rows: Path, order: Iterator[list[int]], steps: int
) -> tuple[Any, list[float]]:
    """One sample at a time, transformers' own forward, the loss written out."""
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    net.get_input_embeddings().padding_idx = None
    tokenizer = AutoTokenizer.from_pretrained(model)
    conversations = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, steps)
    losses = []
    for chosen in order:
        totals, count = [], 0
        for i in chosen:
            tokens, learned = mask(tokenizer, conversations[i])
            logits = net(input_ids=tokens[None]).logits[0, :-1]
            each = F.cross_entropy(logits, tokens[1:], reduction="none")
            totals.append((each * learned[1:]).sum())
            count += int(learned[1:].sum())
        loss = torch.stack(totals).sum() / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return net, losses


def mask(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and 1 where an assistant's turn (with its stop token) stands; ChatML by hand."""
    tokens, learned = [], []
    for message in messages:
        head = tokenizer.encode(f"<|im_start|>{message['role']}\n", add_special_tokens=False)
        body = tokenizer.encode(f"{message['content']}<|im_end|>", add_special_tokens=False)
        tail = tokenizer.encode("\n", add_special_tokens=False)
        mine = message["role"] == "assistant"
        tokens += head + body + tail
        learned += [0] * len(head) + [int(mine)] * len(body) + [0] * len(tail)
    return torch.tensor(tokens), torch.tensor(learned)


def test_the_loop_equals_a_naive_one(checkpoint: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "chats.jsonl", tiny.chats(10))
    folder = train(
        checkpoint, rows, tmp_path, "ours", "--dataset_shuffle", "false", "--learning_rate", 1e-2,
        "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2,
        "--num_train_epochs", 2, "--warmup_steps", 2,
    )  # fmt: skip
    windows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2  # the last one of an epoch is not full
    net, losses = naive(checkpoint, rows, iter(windows), len(windows))
    assert metrics(folder, "train/loss") == pytest.approx(losses, rel=1e-5)
    ours = weights(folder)
    theirs = {name: tensor for name, tensor in net.state_dict().items() if name in ours}
    assert len(theirs) == len(ours)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cuts")
    rows = tiny.write_rows(folder / "chats.jsonl", tiny.chats(27))
    cut = ("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1)
    return rows, train(checkpoint, rows, folder, "reference", *cut, *LINEAR, "--max_steps", 5)


@pytest.mark.parametrize(
    "cut",
    [
        ("--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 8),
        ("--per_device_train_batch_size", 3, "--gradient_accumulation_steps", 2),
        ("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
         "--gradient_checkpointing", "true"),
        ("--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
         "--attn_impl", "eager"),
    ],
    ids=["ones", "threes", "checkpointed", "eager"],
)  # fmt: skip
def test_a_step_means_the_same_however_it_is_cut(
    reference: tuple[Path, Path], checkpoint: Path, tmp_path: Path, cut: tuple[Any, ...]
) -> None:
    rows, whole = reference
    if cut[1] == 3:  # 6 samples a step instead of 8: compare with its own kind
        same = ("--per_device_train_batch_size", 6, "--gradient_accumulation_steps", 1)
        whole = train(checkpoint, rows, tmp_path, "six", *same, *LINEAR, "--max_steps", 5)
    other = train(checkpoint, rows, tmp_path, "cut", *cut, *LINEAR, "--max_steps", 5)
    assert metrics(other, "train/loss") == pytest.approx(metrics(whole, "train/loss"), rel=1e-5)
    assert distance(other, whole) < 2e-6


@pytest.mark.parametrize("shard", ["none", "gradients", "parameters"])
def test_two_processes_equal_one(
    reference: tuple[Path, Path], checkpoint: Path, tmp_path: Path, shard: str
) -> None:
    """Two micro-batches on each of two processes; the last step of an epoch leaves one idle."""
    rows, whole = reference
    cut = ("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2)
    more = (*cut, *LINEAR, "--max_steps", 5, "--parallel.shard", shard)
    other = train(checkpoint, rows, tmp_path, "two", *more, processes=2)
    assert metrics(other, "train/loss") == pytest.approx(metrics(whole, "train/loss"), rel=1e-5)
    norms = metrics(whole, "train/grad_norm")
    assert metrics(other, "train/grad_norm") == pytest.approx(norms, rel=1e-4)
    assert distance(other, whole) < 2e-6


@pytest.mark.parametrize("shard", ["none", "parameters"])
def test_an_adapter_learns_the_same_on_two_processes(
    checkpoint: Path, rows: Path, tmp_path: Path, shard: str
) -> None:
    words = [
        "sft", "--model", checkpoint, "--dataset", rows, "--report_to", "none", *LINEAR,
        "--max_steps", 4, "--split_dataset_ratio", 0.2, "--eval_steps", 2, "--logging_steps", 1,
    ]  # fmt: skip
    one = ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    two = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2]
    run([*words, *one, "--output_dir", "one"], tmp_path)
    run([*words, *two, "--output_dir", "two", "--parallel.shard", shard], tmp_path, 2)
    a, b = (
        load_file(tmp_path / name / "checkpoint-4/adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 2e-6
    for name in ("eval/loss", "eval/token_accuracy", "train/token_accuracy"):
        ours, theirs = metrics(tmp_path / "two", name), metrics(tmp_path / "one", name)
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_packing_changes_nothing_but_the_grouping(checkpoint: Path, tmp_path: Path) -> None:
    """All samples in one step: packed into few packs or alone, the same gradient."""
    rows = tiny.write_rows(tmp_path / "chats.jsonl", tiny.chats(12))
    alone = ("--per_device_train_batch_size", 12, "--gradient_accumulation_steps", 1)
    packed = ("--packing", "--max_length", 200, "--gradient_accumulation_steps", 100)
    a = train(checkpoint, rows, tmp_path, "alone", *alone, *LINEAR, "--num_train_epochs", 3)
    b = train(checkpoint, rows, tmp_path, "packed", *packed, *LINEAR, "--num_train_epochs", 3)
    assert metrics(b, "train/loss") == pytest.approx(metrics(a, "train/loss"), rel=1e-5)
    assert distance(a, b) < 2e-6


def test_the_best_and_the_last_checkpoint_stay(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    folder = train(
        checkpoint, rows, tmp_path, "run", "--learning_rate", 0.3, "--save_steps", 1,
        "--eval_steps", 1, "--split_dataset_ratio", 0.3, "--save_total_limit", 1, "--max_steps", 6,
        "--per_device_train_batch_size", 4,
    )  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    losses = metrics(folder, "eval/loss")
    best = 1 + losses.index(min(losses))
    names = {path.name for path in folder.glob("checkpoint-*")}
    assert names == {f"checkpoint-{best}", "checkpoint-6"}
    assert result["best"].endswith(f"checkpoint-{best}")


def test_early_stopping_ends_the_run(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    folder = train(
        checkpoint, rows, tmp_path, "run", "--learning_rate", 3.0, "--eval_steps", 1,
        "--split_dataset_ratio", 0.3, "--early_stop_interval", 2, "--num_train_epochs", 50,
        "--save_only_model", "true",
    )  # fmt: skip
    losses = metrics(folder, "eval/loss")
    assert json.loads((folder / "result.json").read_text())["reason"] == "early"
    assert losses[-1] >= min(losses[:-2]) and losses[-2] >= min(losses[:-2])
    assert not list(folder.glob("checkpoint-*/trainer"))


def test_bfloat16_trains_float32_weights(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    exact = train(checkpoint, rows, tmp_path, "exact", "--max_steps", 6)
    rough = train(
        checkpoint, rows, tmp_path, "rough", "--max_steps", 6, "--torch_dtype", "bfloat16"
    )
    assert {tensor.dtype for tensor in weights(rough).values()} == {torch.float32}
    loss = metrics(exact, "train/loss")
    assert metrics(rough, "train/loss") == pytest.approx(loss, rel=2e-2)
    assert metrics(rough, "train/loss") != loss
    config = json.loads((rough / "checkpoint-6/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(rough / "checkpoint-6", dtype="auto")
    assert model.dtype == torch.bfloat16
