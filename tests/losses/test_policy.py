"""The policy objective: TRL's numbers, the papers' formulas written out, and the draw."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from swift import registry
from swift.config.policy import (
    CispoSection,
    DapoSection,
    DrGrpoSection,
    GrpoSection,
    GspoSection,
    PolicySection,
    ReinforcePlusPlusSection,
    RlooSection,
    SapoSection,
)
from swift.losses.drawn import Draw, believed, drawn_logprob
from swift.losses.policy import Acted, policy_loss

TRL = json.loads(Path(__file__).with_name("trl_policy.json").read_text())
PAPERS = [
    GrpoSection, DapoSection, DrGrpoSection, GspoSection, SapoSection, CispoSection, RlooSection,
    ReinforcePlusPlusSection,
]  # fmt: skip


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TRL["model"]))
    checksum = sum(p.double().abs().sum() for p in model.parameters())
    assert float(checksum) == pytest.approx(TRL["checksum"], rel=1e-9)
    return model


def weights_of(section: PolicySection, lengths: list[int], most: int) -> tuple[list[float], float]:
    """The weight of a token of each sample, and that of all samples."""
    pairs = [registry.load("aggregate", section.aggregate)(n, most) for n in lengths]
    return [token for token, _ in pairs], sum(sample for _, sample in pairs)


@pytest.mark.parametrize("name", TRL["losses"])
def test_loss_and_gradients_are_those_of_trl(name: str) -> None:
    case = TRL["losses"][name]
    section = GrpoSection(**case["ours"])
    batch = {k: torch.tensor(v) for k, v in TRL["batch"].items()}
    mask = batch["completion_mask"].bool()
    lengths = mask.sum(1).tolist()
    model = tiny()
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    hidden = model.model(input_ids=tokens, attention_mask=seen).last_hidden_state
    hidden = hidden[:, -mask.shape[1] - 1 : -1][mask]
    found = believed(
        hidden,
        batch["completion_ids"][mask],
        model.lm_head,
        [model.lm_head.weight],
        50,
        Draw(case["temperature"]),
    )
    logprobs = torch.tensor(case["logprobs"])[mask]
    assert (found.drawn - logprobs).abs().max() < 1e-5
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = {k: torch.tensor(v)[mask] for k, v in case["columns"].items()}
    keep = None
    if section.top_entropy_quantile < 1:
        least = torch.quantile(found.entropy, 1 - section.top_entropy_quantile)
        keep = (found.entropy >= least).float()
    weights, divisor = weights_of(section, lengths, TRL["most"])
    acted = Acted(
        sample, len(lengths), torch.tensor(weights)[sample], batch["advantages"][sample],
        columns.get("old"), columns.get("engine"), columns.get("reference"), keep,
    )  # fmt: skip
    loss = policy_loss(found.drawn, acted, section)
    (loss.total / divisor).backward()
    assert float(loss.total / divisor) == pytest.approx(case["loss"], abs=1e-5)
    for parameter, expected in case["gradients"].items():
        grad = model.get_parameter(parameter).grad
        assert grad is not None
        flat = grad.double().flatten()
        value = float((flat * torch.arange(len(flat)).double().cos()).sum())
        assert value == pytest.approx(expected, abs=1e-5), parameter
    metrics, count = case["metrics"], len(sample)
    assert float(found.entropy.mean()) == pytest.approx(metrics["entropy"], abs=1e-5)
    per_sample = section.ratio in ("sequence", "trajectory")  # TRL then counts answers, not tokens
    for ours, theirs in {"clip_low": "low", "clip_high": "high"}.items():
        key = f"clip_ratio/{theirs}_mean"
        if key in metrics and not per_sample:
            assert float(loss.sums[ours]) / count == pytest.approx(metrics[key], abs=1e-6)
    if "cispo_clip_ratio" in metrics:
        share = float(loss.sums["clip_high"]) / count
        assert share == pytest.approx(metrics["cispo_clip_ratio"], abs=1e-6)
    if "kl" in metrics:
        assert float(loss.sums["kl"]) / count == pytest.approx(metrics["kl"], abs=1e-6)


def naive(section: PolicySection, rows: list[dict[str, Any]], most: int) -> float:  # noqa: C901
    """The papers' formulas in plain float64, answer by answer and token by token."""
    total = divisor = 0.0
    for row in rows:
        new, old, a = row["new"], row["old"], row["a"]
        logs = [n - o for n, o in zip(new, old, strict=True)]
        mean = sum(logs) / len(logs)
        part = 0.0
        for t, log in enumerate(logs):
            r = math.exp(
                {"token": log, "sequence": mean, "sequence_token": mean, "trajectory": sum(logs)}[
                    section.ratio
                ]
            )
            low, high = 1 - section.epsilon, 1 + section.high
            bounded = r if section.delta is None else min(r, section.delta)
            gain = min(bounded * a, min(max(r, low), high) * a)
            if section.gate == "none":
                gain = r * a
            if section.gate == "cispo":
                gain = min(r, section.high) * a * new[t]
            if section.gate == "sapo":
                tau = section.tau_pos if a > 0 else section.tau_neg
                gain = 4 / tau / (1 + math.exp(-tau * (r - 1))) * a
            if section.gate == "fipo":
                gamma = 2 ** (-1 / section.fipo_decay_rate)
                most_of = math.inf if section.delta is None else section.delta
                future = sum(
                    gamma ** (k - t) * logs[k]
                    for k in range(t, len(logs))
                    if section.ratio != "token" or math.exp(logs[k]) <= most_of
                )
                weight = math.exp(future)
                if section.fipo_clip_range:
                    least = 1.0 if section.fipo_clip_high_only else 1 - section.fipo_clip_range
                    weight = min(max(weight, least), 1 + section.fipo_clip_range)
                limit = section.fipo_safety_threshold
                if limit is not None and a < 0 and r > limit:
                    weight = min(max(weight, 0.8), 1.0)
                gain *= weight
            loss = -gain
            if section.beta and not section.kl_in_reward:
                d = new[t] - row["reference"][t]
                loss += section.beta * {
                    "k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1
                }[section.kl]  # fmt: skip
            part += loss
        if section.aggregate == "sample":
            total, divisor = total + part / len(logs), divisor + 1
        elif section.aggregate == "token":
            total, divisor = total + part, divisor + len(logs)
        else:
            total, divisor = total + part / most, divisor + 1
    return total / divisor


def answers(seed: int = 0, spread: float = 0.3) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(seed)
    rows = []
    for length, a in zip([6, 1, 9, 3], [1.3, -0.4, -1.2, 0.6], strict=True):
        new = -torch.rand(length, generator=random, dtype=torch.float64) * 3
        noise = [torch.randn(length, generator=random, dtype=torch.float64) for _ in range(2)]
        rows.append(
            {
                "new": new.tolist(),
                "old": (new + spread * noise[0]).tolist(),
                "reference": (new + 0.5 * noise[1]).tolist(),
                "a": a,
            }
        )
    return rows


def ours(section: PolicySection, rows: list[dict[str, Any]], most: int) -> float:
    lengths = [len(row["new"]) for row in rows]
    weights, divisor = weights_of(section, lengths, most)
    sample = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths))
    columns = {
        name: torch.tensor([x for row in rows for x in row[name]], dtype=torch.float64)
        for name in ("new", "old", "reference")
    }
    acted = Acted(
        sample, len(rows), torch.tensor(weights, dtype=torch.float64)[sample],
        torch.tensor([row["a"] for row in rows], dtype=torch.float64)[sample],
        columns["old"], None, columns["reference"] if section.beta else None,
    )  # fmt: skip
    return float(policy_loss(columns["new"], acted, section).total) / divisor


@pytest.mark.parametrize("ratio", ["token", "sequence", "sequence_token", "trajectory"])
@pytest.mark.parametrize("gate", ["clip", "cispo", "sapo", "fipo", "none"])
@pytest.mark.parametrize("aggregate", ["sample", "token", "constant"])
def test_every_combination_is_the_formula(ratio: str, gate: str, aggregate: str) -> None:
    section = GrpoSection(
        ratio=ratio, gate=gate, aggregate=aggregate, epsilon_high=0.35, beta=0.07, kl="k3"
    )
    rows = answers()
    assert ours(section, rows, 12) == pytest.approx(naive(section, rows, 12), abs=1e-12)


@pytest.mark.parametrize("paper", PAPERS)
def test_presets_are_the_formula(paper: type[PolicySection]) -> None:
    rows = answers(1, 0.01 if paper is GspoSection else 0.3)
    assert ours(paper(), rows, 12) == pytest.approx(naive(paper(), rows, 12), abs=1e-12)


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize(
    "more",
    [
        {"delta": 1.2},
        {"gate": "fipo", "fipo_clip_range": 0.0, "fipo_decay_rate": 2.0},
        {"gate": "fipo", "fipo_clip_high_only": False, "fipo_safety_threshold": 1.01},
        {"gate": "fipo", "fipo_clip_range": 5.0, "delta": 1.1},
    ],
)
def test_other_settings_are_the_formula(kl: str, more: dict[str, Any]) -> None:
    section = GrpoSection(kl=kl, beta=0.3, **more)
    rows = answers(2)
    assert ours(section, rows, 12) == pytest.approx(naive(section, rows, 12), abs=1e-12)


def test_gspo_token_has_the_value_of_a_sequence_and_the_gradient_of_tokens() -> None:
    log_ratio = torch.tensor([0.3, -0.1, 0.2, 0.5], requires_grad=True)
    sample = torch.tensor([0, 0, 0, 1])
    found = registry.load("ratio", "sequence_token")(log_ratio, sample, 2)
    assert torch.allclose(found, registry.load("ratio", "sequence")(log_ratio, sample, 2))
    found[0].backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == pytest.approx([float(found[0]), 0, 0, 0])


def test_the_loss_does_not_depend_on_how_a_step_is_cut() -> None:
    section = GspoSection(epsilon=0.05, epsilon_high=0.05, beta=0.1)
    rows = answers()
    whole = ours(section, rows, 12)
    parts = [ours(section, [row], 12) for row in rows]  # divided by 1 sample each
    assert sum(parts) / len(rows) == pytest.approx(whole, abs=1e-12)


DRAWS = [
    Draw(),
    Draw(temperature=0.6),
    Draw(top_k=5),
    Draw(top_p=0.8),
    Draw(min_p=0.2),
    Draw(1.3, 12, 0.7, 0.05),
]


def probabilities(logits: list[float], draw: Draw) -> list[float]:
    """What the names say, written out."""
    scaled = [x / draw.temperature for x in logits]
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    kept = order[: draw.top_k] if draw.top_k else order
    mass = sum(math.exp(scaled[i]) for i in kept)
    if draw.top_p < 1:
        nucleus, before = [], 0.0
        for i in kept:
            if before < draw.top_p:
                nucleus.append(i)
            before += math.exp(scaled[i]) / mass
        kept = nucleus
    least = draw.min_p * math.exp(scaled[order[0]])
    kept = [i for i in kept if math.exp(scaled[i]) >= least]
    mass = sum(math.exp(scaled[i]) for i in kept)
    return [math.exp(x) / mass if i in kept else 0.0 for i, x in enumerate(scaled)]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_draw_is_what_tokens_are_drawn_from(draw: Draw) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 2
    expected = probabilities(logits.double().tolist(), draw)
    inside = [i for i, p in enumerate(expected) if p > 0]
    rows = logits.repeat(len(inside), 1)
    drawn = drawn_logprob(rows, torch.tensor(inside), draw)
    assert drawn.exp().tolist() == pytest.approx([expected[i] for i in inside], abs=1e-6)
    assert float(drawn.exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("draw", DRAWS)
def test_on_policy_ratios_are_one_and_wrong_ones_are_seen(draw: Draw) -> None:
    logits = torch.randn(64, 30, generator=torch.Generator().manual_seed(4)) * 2
    truth = [probabilities(row, draw) for row in logits.double().tolist()]
    tokens = torch.tensor([max(range(30), key=row.__getitem__) for row in truth])
    engine = torch.tensor([math.log(row[t]) for row, t in zip(truth, tokens, strict=True)])
    drawn = drawn_logprob(logits, tokens, draw)
    assert (drawn - engine).exp().tolist() == pytest.approx([1.0] * 64, abs=1e-5)
    wrong = replace(draw, temperature=draw.temperature * 2)
    other = [probabilities(row, wrong) for row in logits.double().tolist()]
    expected = [
        row[t] / right[t] for row, right, t in zip(other, truth, tokens.tolist(), strict=True)
    ]
    mistaken = drawn_logprob(logits, tokens, wrong)
    assert (mistaken - engine).exp().tolist() == pytest.approx(expected, abs=1e-5)
    assert sum(abs(x - 1) > 0.01 for x in expected) > 5


def test_a_token_that_the_cuts_leave_out_keeps_a_probability() -> None:
    logits = torch.tensor([[5.0, 4.0, -3.0]])
    drawn = drawn_logprob(logits, torch.tensor([2]), Draw(top_k=1))
    assert torch.isfinite(drawn).all()
    assert drawn.exp().item() == pytest.approx(math.exp(-3) / (math.exp(-3) + math.exp(5)))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = torch.nn.Linear(8, 30, bias=False)
    hidden = torch.randn(300, 8, generator=torch.Generator().manual_seed(5))
    targets = torch.arange(300) % 30
    results = []
    for rows in (64, 1000):
        monkeypatch.setattr("swift.losses.drawn.chunk_rows", lambda *_, rows=rows: rows)
        leaf = hidden.clone().requires_grad_()
        head.zero_grad()
        found = believed(leaf, targets, head, [head.weight], 30, Draw(0.7, top_k=10))
        (found.drawn * torch.linspace(0, 1, 300)).sum().backward()
        assert leaf.grad is not None and head.weight.grad is not None
        results.append((found.drawn.detach(), leaf.grad, head.weight.grad.clone()))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_no_token_is_no_loss() -> None:
    head = torch.nn.Linear(8, 30)
    leaf = torch.zeros(0, 8, requires_grad=True)
    found = believed(leaf, torch.zeros(0, dtype=torch.int64), head, [head.weight], 30, Draw())
    empty = torch.zeros(0)
    acted = Acted(torch.zeros(0, dtype=torch.int64), 0, empty, empty)
    loss = policy_loss(found.drawn, acted, GrpoSection())
    loss.total.backward()
    assert float(loss.total) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "cispo"}, "epsilon_high"),
        ({"advantage": "gdpo", "kl_in_reward": True}, "gdpo"),
        ({"ratio": "tokn"}, "tokn"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrpoSection(**settings)
