"""The plan counts every model of a run: against the bytes that are there when it learns."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

import tiny
from processes import run
from swift.config.runs import RlhfConfig
from swift.parallel.world import World
from swift.recipes import gkd, grpo, rlhf
from swift.train.memory import Estimate

Plan = Callable[..., tuple[Estimate, int]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders: another model that writes, one that scores, an adapter of either kind."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save_checkpoint(folder / "base")
    tiny.save_checkpoint(folder / "other", seed=3, num_hidden_layers=4)
    tiny.make_tokenizer().save_pretrained(folder / "scores")
    scoring = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    scoring.save_pretrained(folder / "scores")
    kinds = {"CAUSAL_LM": tiny.make_model(), "SEQ_CLS": scoring}
    for kind, model in kinds.items():
        settings = LoraConfig(r=5, target_modules="all-linear", task_type=kind)
        adapter: Any = get_peft_model(model, settings)
        adapter.peft_config["default"].base_model_name_or_path = str(folder / "base")
        adapter.save_pretrained(folder / kind)
        tiny.make_tokenizer().save_pretrained(folder / kind)
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of nearly 200 MiB."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "max_position_embeddings": 512}
    return tiny.save_checkpoint(folder, **sizes)


def alive() -> dict[int, nn.Parameter]:
    gc.collect()
    found = [x for x in gc.get_objects() if type(x) is nn.Parameter and x.device.type == "cpu"]
    return {p.untyped_storage().data_ptr(): p for p in found}


@pytest.fixture
def plan_of(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Run; returns the estimate, and the bytes of weights and the optimizer's state at the end."""
    chats = tiny.chats(4)
    pairs = [{**row, "rejected_response": "Maybe."} for row in chats]
    rows = tiny.write_rows(tmp_path / "rows.jsonl", pairs)

    def plan_of(tuner: str, kind: dict[str, Any], **changes: Any) -> tuple[Estimate, int]:
        found: list[Any] = []
        real_fit, real_build = rlhf.fit, rlhf.build_learner
        before = alive()

        def build_learner(session: Any, plan: Any, *rest: Any) -> Any:
            found.append(plan.budget.estimate)
            return real_build(session, plan, *rest)

        def fit(job: Any, state: Any) -> str:
            reason = real_fit(job, state)
            weights = {at: p for at, p in alive().items() if at not in before}
            states = [t for s in job.optimizer.state.values() for t in s.values() if t.dim()]
            found.append(sum(t.numel() * t.element_size() for t in [*weights.values(), *states]))
            return reason

        for recipe in (rlhf, gkd, grpo):
            monkeypatch.setattr(recipe, "fit", fit)
            monkeypatch.setattr(recipe, "build_learner", build_learner)
        settings: dict[str, Any] = {
            "model": {"path": models["base"], "dtype": "float32"},
            "tuner": tuner,
            "data": {"train": [str(rows)], "processes": 1},
            "train": {"batch_size": 2, "accumulation": 1, "max_steps": 1, "save": "no"},
            "rlhf": kind,
            "report": "none",
            "output": str(tmp_path / "run"),
        }
        if kind["kind"] in ("grpo", "ppo"):
            settings["reward"] = {"funcs": ["repetition"]}
            settings["rollout"] = {"max_completion_length": 4, "num_generations": 2}
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
        rlhf.run(RlhfConfig.model_validate(settings), World())
        estimate, measured = found
        return estimate, measured

    return plan_of


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dpo, a copy": ("full", {"kind": "dpo"}, {}),
    "dpo, another model": ("full", {"kind": "dpo", "ref_model": "other"}, {}),
    "dpo, beside an adapter": ("lora", {"kind": "dpo"}, {}),
    "dpo, another model, an adapter": ("lora", {"kind": "dpo", "ref_model": "other"}, {}),
    "dpo, an adapter goes on": ("lora", {"kind": "dpo"}, {"model": {"adapters": ["CAUSAL_LM"]}}),
    "dpo, no reference": ("full", {"kind": "dpo", "reference_free": True}, {}),
    "dpo, asked before": ("full", {"kind": "dpo", "precompute_ref_log_probs": True}, {}),
    "simpo": ("full", {"kind": "simpo"}, {}),
    "gkd": ("full", {"kind": "gkd", "lmbda": 0, "teacher_model": "other"}, {}),
    "gkd, away": (
        "lora",
        {"kind": "gkd", "lmbda": 0, "teacher_model": "other", "offload_teacher_model": True},
        {},
    ),
    "grpo, a copy": ("full", {"kind": "grpo", "beta": 0.1}, {}),
    "grpo, no reference": ("full", {"kind": "grpo", "beta": 0}, {}),
    "grpo, judges": (
        "lora",
        {"kind": "grpo", "beta": 0},
        {"reward": {"models": ["scores", "SEQ_CLS"]}},
    ),
    "grpo, an engine of its own": (
        "lora",
        {"kind": "grpo", "beta": 0},
        {"rollout": {"mode": "colocate"}},
    ),
}


def named(value: Any, models: dict[str, str]) -> Any:
    """Words that name a model are its folder."""
    if isinstance(value, dict):
        return {key: named(inner, models) for key, inner in value.items()}
    if isinstance(value, list):
        return [named(inner, models) for inner in value]
    return models.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("case", CASES)
def test_all_models_are_counted(case: str, plan_of: Plan, models: dict[str, str]) -> None:
    tuner, kind, changes = CASES[case]
    estimate, measured = plan_of(tuner, named(kind, models), **named(changes, models))
    assert estimate.weights + estimate.optimizer + estimate.other_models == measured
    alone = "no reference" in case or "beside" in case or "before" in case or case == "simpo"
    assert (estimate.other_models == 0) == alone


@pytest.mark.parametrize("value", [None, "scores"])
def test_a_critic_is_counted_with_what_it_learns_by(
    value: str | None, plan_of: Plan, models: dict[str, str]
) -> None:
    kind = {"kind": "ppo", "value_model": value and models[value]}
    estimate, measured = plan_of("full", kind, rollout={"num_generations": 1})
    reference = tiny.make_model().num_parameters() * 4
    critic = estimate.other_models - reference
    gradients = critic // 4  # gone after a step
    assert estimate.weights + estimate.optimizer + reference + critic - gradients == measured
    width = tiny.make_config().hidden_size
    assert critic == 16 * (tiny.make_model().num_parameters() + width if value else width + 1)


def test_a_reference_that_is_gone_counts_as_far_as_it_is_more_than_a_step(
    plan_of: Plan, models: dict[str, str]
) -> None:
    kind = {"kind": "dpo", "ref_model": models["other"], "precompute_ref_log_probs": True}
    estimate, measured = plan_of("lora", kind)
    before = plan_of("lora", {**kind, "precompute_ref_log_probs": False})[0]
    assert estimate.weights + estimate.optimizer == measured
    step = estimate.gradients + estimate.optimizer + estimate.activations
    assert estimate.other_models == max(0, before.other_models - step)


def test_a_process_takes_what_was_planned(
    large: Path, models: dict[str, str], tmp_path: Path
) -> None:
    """At its peak; and with a large teacher more than with a small one by what was planned."""
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.chats(4))
    words = ["rlhf", "--rlhf_type", "gkd", "--model", models["base"], "--dataset", rows]
    words += ["--lmbda", 0, "--max_steps", 1, "--torch_dtype", "float32", "--report_to", "none"]
    others, plans, peaks = [], [], []
    for name, teacher in (("small", models["base"]), ("large", large)):
        command = [*words, "--teacher_model", teacher, "--output_dir", name]
        text = run([*command, "--dry_run", "true"], tmp_path)
        others.append(float(re.findall(r"other models\W+([\d.]+)", text)[0]))
        plans.append(float(re.findall(r"\ball\W+(\d+\.\d+)", text)[0]))
        run(command, tmp_path)
        [line] = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        peaks.append(json.loads(line)["train/memory_gib"])
    assert plans == pytest.approx(peaks, rel=0.2)
    assert others[1] - others[0] == pytest.approx(peaks[1] - peaks[0], rel=0.2)
