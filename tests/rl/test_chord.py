"""CHORD: the loss is the paper's written out; a step means the same however it is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from processes import fail, start
from swift import registry
from swift.config.chord import ChordSection
from swift.config.parse import read
from swift.config.policy import GrpoSection
from swift.config.runs import RlhfConfig
from swift.data.stream import Collate
from swift.losses.drawn import Draw
from swift.models.attention import choose_layout
from swift.parallel.world import World
from swift.recipes import grpo
from swift.rl.answers import Answer, samples_of
from swift.rl.chord import Mixed, mu_at
from swift.rl.objective import PolicyObjective, joined, policy_batch

CHORD = {"mu_peak": 0.9, "mu_valley": 0.05, "mu_warmup_steps": 4, "mu_decay_steps": 10}


def test_mu_rises_and_falls_as_a_cosine() -> None:
    section = ChordSection(dataset=["x"], **CHORD)
    for step in range(20):
        if step < 4:
            expected = step / 4 * 0.9
        elif step >= 14:
            expected = 0.05
        else:
            decay = 0.5 * (1 + math.cos(math.pi * (step - 4) / 10))
            expected = (0.9 - 0.05) * decay + 0.05
        assert mu_at(step, section) == pytest.approx(expected, abs=1e-12)
    at_once = ChordSection(
        dataset=["x"], mu_peak=0.5, mu_valley=0.1, mu_warmup_steps=0, mu_decay_steps=0
    )
    assert mu_at(0, at_once) == 0.1


def answers() -> list[Answer]:
    found = []
    for i, (length, gain) in enumerate([(3, 1.0), (5, -0.5)]):
        tokens = [10 + i + n for n in range(length)]
        own = [True] * length
        made = Answer([5, 6], tokens, own, None, None, "stop", "row", "", [0.0], advantage=gain)
        found.append(made)
    return found


@pytest.mark.parametrize("phi", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_the_paper_s(phi: bool, packed: bool) -> None:
    model = tiny.make_model()
    choose_layout(model, "auto" if packed else "eager")
    section = GrpoSection(beta=0.0, aggregate="token")
    objective = PolicyObjective(section, Draw(), model, phi=phi)
    collate = Collate(packed=packed)
    said = answers()
    plain = collate(samples_of(said, [1.0] * len(said)))
    alone = policy_batch(plain, plain.weight, advantage_N=joined([a.advantages for a in said]))
    rows = [
        replace(row, weights=(row.weights > 0).astype(np.float32)) for row in tiny.samples(9, 6)
    ]
    experts = collate(rows)
    policy = objective(alone)["total"] / alone.weight
    # as ms-swift 4.6 writes it: the mean over learned tokens of -log p, times p (1 - p)
    total, count = torch.tensor(0.0), 0
    for row in rows:
        logits = model(input_ids=torch.tensor(row.tokens[None].astype(np.int64))).logits[0]
        for t in range(1, len(row.tokens)):
            if row.weights[t]:
                logp = logits[t - 1].log_softmax(-1)[int(row.tokens[t])]
                p = logp.detach().exp()
                total = total - logp * (p * (1 - p) if phi else 1)
                count += 1
    mu = 0.3
    expected = (1 - mu) * policy + mu * total / count
    mixed = Mixed(experts, mu, mu * alone.weight / experts.weight)
    out = objective(replace(alone, mixed=mixed))
    assert float(out["total"]) / alone.weight == pytest.approx(float(expected), abs=1e-5)
    learning = list(model.parameters())
    ours = torch.autograd.grad(out["total"] / alone.weight, learning)
    naive = torch.autograd.grad(expected, learning)
    for a, b in zip(ours, naive, strict=True):
        assert (a - b).abs().max() < 1e-5


def letters(completions: list[str], **columns: Any) -> list[float]:
    return [sum(letter in "aeiou" for letter in text) / 10 for text in completions]


@pytest.fixture(autouse=True)
def rewards() -> Iterator[None]:
    registry.register("reward", "chord_letters", f"{__name__}:letters")
    yield
    registry._ENTRIES["reward"].pop("chord_letters")


@pytest.fixture
def learn(checkpoint: Path, rows: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    prompts = [{"prompt": f"Add {i} to it."} for i in range(12)]
    tiny.write_rows(tmp_path / "p.jsonl", prompts)

    def learn(name: str, **changes: Any) -> list[dict[str, Any]]:
        settings: dict[str, Any] = {
            "model": {"path": str(checkpoint), "dtype": "float32"},
            "tuner": "full",
            "data": {"train": [str(tmp_path / "p.jsonl")], "processes": 1},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": "constant",
            "train": {"batch_size": 8, "accumulation": 1, "max_steps": 3, "log_every": 1},
            "rlhf": {"kind": "grpo", "beta": 0.0},
            "rollout": {"num_generations": 4, "max_completion_length": 8},
            "reward": {"funcs": ["chord_letters"]},
            "chord": {**CHORD, "dataset": [str(rows)], "batch_size": 4, "mu_warmup_steps": 0},
            "report": "none",
            "output": str(tmp_path / name),
        }
        for section, values in changes.items():
            settings[section] = {**settings[section], **values}
        result = grpo.run(RlhfConfig.model_validate(settings), World())
        assert result is not None
        return metrics(Path(result.checkpoint).parent)

    return learn


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_step_means_the_same_however_it_is_cut(learn: Callable[..., Any]) -> None:
    whole = learn("whole")
    cut = learn("cut", train={"batch_size": 2, "accumulation": 4}, chord={"batch_size": 1})
    for a, b in zip(whole, cut, strict=True):
        for name in ("train/loss", "train/grad_norm", "train/expert_loss", "train/mu"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), name
    assert [round(line["train/mu"], 6) for line in whole] == [
        round(mu_at(i, ChordSection(dataset=["x"], **{**CHORD, "mu_warmup_steps": 0})), 6)
        for i in range(3)
    ]
    # 40 conversations, 16 in a step: the third is not full, and the next epoch begins behind it
    short = learn("short", chord={"batch_size": 16}, train={"max_steps": 4})
    assert all(math.isfinite(line["train/expert_loss"]) for line in short)


def test_experts_are_learned_where_rewards_teach_nothing(learn: Callable[..., Any]) -> None:
    def run(name: str, **chord: Any) -> list[dict[str, Any]]:
        return learn(
            name, train={"max_steps": 12}, optimizer={"learning_rate": 1e-2},
            chord={"mu_peak": 1.0, "mu_valley": 1.0, **chord},
        )  # fmt: skip

    found = run("experts")
    assert found[-1]["train/expert_loss"] < found[0]["train/expert_loss"] - 1
    none = learn("none", chord={"mu_peak": 0.0, "mu_valley": 0.0})
    off = learn("off", chord={"dataset": [], **dict.fromkeys(CHORD)})
    for a, b in zip(none, off, strict=True):
        assert a["train/grad_norm"] == b["train/grad_norm"] and "train/mu" not in b


def test_a_resumed_run_is_the_same_to_the_bit(learn: Callable[..., Any], tmp_path: Path) -> None:
    whole = learn("whole", train={"save_every": 1, "max_steps": 3})
    again = learn("whole", train={"max_steps": 3, "resume": str(tmp_path / "whole/checkpoint-1")})
    for a, b in zip(whole, again[-3:], strict=True):
        assert a["train/loss"] == b["train/loss"] and a["train/grad_norm"] == b["train/grad_norm"]


def test_two_processes_are_one(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "plug.py").write_text(
        "from swift import registry\n"
        "def count(completions, **columns):\n"
        "    return [float(len(text)) for text in completions]\n"
        "registry.register('reward', 'chord_count', f'{__name__}:count')\n"
    )
    tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": f"Add {i} to it."} for i in range(12)])
    words = ["rlhf", "--rlhf_type", "grpo", "--model", checkpoint, "--dataset", "p.jsonl"]
    words += ["--external_plugins", "plug.py", "--reward_funcs", "chord_count", "--max_steps", 3]
    words += ["--num_generations", 4, "--max_completion_length", 8, "--tuner_type", "full"]
    words += ["--logging_steps", 1, "--report_to", "none", "--torch_dtype", "float32", "--beta", 0]
    words += ["--learning_rate", "1e-3", "--chord_sft_dataset", rows, "--chord_mu_peak", 0.9]
    words += ["--chord_mu_valley", 0.05, "--chord_mu_warmup_steps", 0]
    words += ["--chord_mu_decay_steps", 200, "--chord_enable_phi_function", "true"]
    one = start([*words, "--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1,
                 "--chord_sft_per_device_train_batch_size", 12, "--output_dir", "one"],
                tmp_path)  # fmt: skip
    assert one.wait() == 0, one.text()
    two = start([*words, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1,
                 "--chord_sft_per_device_train_batch_size", 6, "--output_dir", "two"],
                tmp_path, processes=2)  # fmt: skip
    assert two.wait() == 0, two.text()
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for name in ("train/loss", "train/grad_norm", "train/expert_loss"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chord_mu_peak", "0.9"], "--chord_sft_dataset: is needed"),
        (["--chord_sft_dataset", "x"], "--chord_mu_peak: is needed"),
        (["--rlhf_type", "dpo", "--chord_sft_dataset", "x", "--chord_mu_peak", "1",
          "--chord_mu_valley", "0", "--chord_mu_warmup_steps", "0", "--chord_mu_decay_steps", "1"],
         "belongs to training from rewards"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(tmp_path: Path, words: list[str], message: str) -> None:
    base = ["rlhf", "--rlhf_type", "grpo", "--model", "m", "--dataset", "d"]
    code, text = fail([*base, "--reward_funcs", "number", *words], tmp_path)
    assert code == 2 and message in text, text


def test_flags_of_ms_swift_mean_what_they_meant() -> None:
    words = "--rlhf_type grpo --model m --dataset d --reward_funcs number --chord_mu_peak 0.9"
    words += " --chord_sft_per_device_train_batch_size 1 --chord_sft_dataset a.jsonl"
    words += " --chord_enable_phi_function false --chord_mu_warmup_steps 0"
    words += " --chord_mu_decay_steps 200 --chord_mu_valley 0.05"
    config, _ = read(RlhfConfig, "rlhf", words.split())
    assert isinstance(config, RlhfConfig)
    assert (config.chord.dataset, config.chord.mu_decay_steps) == (["a.jsonl"], 200)
