"""Losses of preferences: equal to TRL's, to their formulas, and however pairs are laid out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import CASES, Pair, lengths_of, models, pairs
from transformers import LlamaForSequenceClassification

import tiny
from swift import registry
from swift.config.alignment import DpoSection, KtoSection, RlhfSection
from swift.data.batch import Batch, batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.losses import preference
from swift.losses.preference import Pairs
from swift.models.attention import set_attention
from swift.models.heads import find_head
from swift.train.objective import read_logps

TRL = json.loads(Path(__file__).with_name("trl_numbers.json").read_text())["cases"]
OURS = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}  # of TRL's reward model
ABSENT = {"entropy", "num_tokens", "mean_token_accuracy", "min_reward", "mean_reward", "max_reward"}
LOGITS = {"logits/chosen", "logits/rejected"}  # without a reference TRL counts prompts and padding
LOGPS = {"logps/chosen", "logps/rejected"}  # and shows those of a token where the loss is by token
UNLIKE = {
    "kto": {"rewards/margins"},  # a difference of two means
    **dict.fromkeys(("cpo", "cpo hinge", "cpo smoothed", "cpo, one pair"), LOGITS),
    **{case: LOGITS | LOGPS for case in CASES if case.startswith(("cpo ipo", "simpo", "orpo"))},
}


def sequence(prompt: list[int], answer: list[int]) -> tuple[list[int], list[float]]:
    return prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer)


def sample(*sequences: tuple[list[int], list[float]], labels: tuple[float, ...] = ()) -> Sample:
    tokens = np.array([t for one, _ in sequences for t in one], np.int32)
    weights = np.array([w for _, one in sequences for w in one], np.float32)
    return Sample(tokens, weights, "row", (), tuple(len(one) for one, _ in sequences), labels)


def pair_batch(made: list[Pair], **layout: bool) -> Batch:
    packed = layout.pop("packed", True)
    samples = [sample(sequence(p.prompt, p.chosen), sequence(p.prompt, p.rejected)) for p in made]
    return batch(pack(samples, 8 if packed else 1, **layout), packed=packed, weight=len(made))


def answer_batch(made: list[Pair]) -> Batch:
    """Every second answer is a good one; beside them each prompt with the answer before it."""
    answers = [p.rejected if i % 2 else p.chosen for i, p in enumerate(made)]
    samples = [
        sample(sequence(p.prompt, a), labels=(float(i % 2 == 0),))
        for i, (p, a) in enumerate(zip(made, answers, strict=True))
    ]
    other = [sample(sequence(p.prompt, answers[i - 1])) for i, p in enumerate(made)]
    return batch(pack(samples), weight=len(made), beside=batch(pack(other)))


def objective(kind: str, settings: dict[str, Any]) -> torch.nn.Module:
    model, reference = models()
    section = registry.entries(RlhfSection)[kind].section
    assert section is not None
    if kind == "rm":
        torch.manual_seed(3)
        model = LlamaForSequenceClassification(tiny.make_config(num_labels=1))
    set_attention(model, "packed")
    set_attention(reference, "packed")
    head = find_head(reference)

    def ask(given: Batch) -> torch.Tensor:
        with torch.no_grad():
            return read_logps(reference, head, given).logps_N

    return registry.build(section(**settings), model, ask)


def run(kind: str, settings: dict[str, Any], given: Batch) -> tuple[dict[str, Any], Any]:
    """Loss and metrics as they are shown, and the gradients."""
    made = objective(kind, settings).train()
    out = made(given)
    (out["total"] / given.weight).backward()
    shown = {name: float(value[0] / value[1]) for name, value in out.items() if name != "total"}
    slopes = {
        n.removeprefix(
            "model.",
        ): p.grad
        for n, p in made.model.named_parameters()
    }
    return {"loss": float(out["total"]) / given.weight, **shown}, slopes


def batch_of(case: str, kind: str, **layout: bool) -> Batch:
    made = pairs(lengths_of(case))
    return answer_batch(made) if kind == "kto" else pair_batch(made, whole=kind == "rm", **layout)


@pytest.mark.parametrize("share", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("case", CASES)
def test_loss_metrics_and_gradients_are_those_of_trl(case: str, share: bool) -> None:
    kind, settings = CASES[case]
    shown, slopes = run(kind, settings, batch_of(case, kind, share=share))
    expected = TRL[case]
    assert shown["loss"] == pytest.approx(expected["loss"], rel=1e-5, abs=1e-6)
    compared = 0
    for name, value in expected["metrics"].items():
        if name in ABSENT or name in UNLIKE.get(case, UNLIKE.get(kind, set())):
            continue
        if name == "nll_loss" and not settings.get("cpo_alpha", 1.0):
            continue  # not computed there
        assert shown[OURS.get(name, name)] == pytest.approx(value, rel=1e-5, abs=1e-5), name
        compared += 1
    assert compared >= 2
    for name, value in expected["slopes"].items():
        grad = slopes[name.removeprefix("model.")].flatten()
        found = float((grad * torch.arange(len(grad)).cos()).sum())
        assert found == pytest.approx(value, rel=1e-4, abs=1e-5 * float(grad.norm())), name


@pytest.mark.parametrize("case", ["sigmoid", "ipo", "ld_alpha", "simpo", "rm", "exo_pair"])
def test_however_pairs_are_laid_out_they_are_the_same(case: str) -> None:
    kind, settings = CASES[case]
    made = pairs()
    made[1] = Pair(made[1].prompt, made[1].chosen, [*made[1].chosen[:2], *made[1].rejected])
    made[2] = Pair(made[2].prompt, made[2].chosen, made[2].chosen[:-1])  # a part of the other
    whole = kind == "rm"
    expected, slopes = run(kind, settings, pair_batch(made, whole=whole))
    shared = pair_batch(made, whole=whole, share=True)
    assert shared.count < pair_batch(made, whole=whole).count - sum(
        len(pair.prompt) - 1 for pair in made
    )
    for given in (shared, pair_batch(made, whole=whole, packed=False)):
        found, others = run(kind, settings, given)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
        for name, slope in slopes.items():
            bound = 1e-5 * max(1.0, float(slope.norm()))
            assert (others[name] - slope).norm() < bound, name


def test_a_step_is_the_same_however_it_is_cut() -> None:
    for kind, settings in CASES.values():
        if kind == "kto" or settings.get("loss_type", [""])[0].startswith("aot"):
            continue  # they look at a whole micro-batch
        made, whole = objective(kind, settings), kind == "rm"
        total = made(pair_batch(pairs(), whole=whole))["total"]
        parts = [made(pair_batch([one], whole=whole))["total"] for one in pairs()]
        torch.testing.assert_close(sum(parts), total, rtol=1e-5, atol=1e-5)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


B, E, TAU = 0.3, 0.1, 0.05
FORMULAS = {  # of the papers: log-ratios w and r of the chosen and the rejected answer, their
    # lengths m and n, and the log-probability c of the chosen one
    "sigmoid": lambda w, r, m, n, c: (
        -(1 - E) * log_sigmoid(B * (w - r)) - E * log_sigmoid(B * (r - w))
    ),
    "robust": lambda w, r, m, n, c: (
        (-(1 - E) * log_sigmoid(B * (w - r)) + E * log_sigmoid(B * (r - w))) / (1 - 2 * E)
    ),
    "exo_pair": lambda w, r, m, n, c: sum(
        p * math.log(p / q) for p, q in ((sig(B * (w - r)), 1 - E), (sig(B * (r - w)), E))
    ),
    "hinge": lambda w, r, m, n, c: max(0.0, 1 - B * (w - r)),
    "ipo": lambda w, r, m, n, c: (w / m - r / n - 1 / (2 * B)) ** 2,
    "bco_pair": lambda w, r, m, n, c: -log_sigmoid(B * w) - log_sigmoid(-B * r),
    "sppo_hard": lambda w, r, m, n, c: (w - 0.5 / B) ** 2 + (r + 0.5 / B) ** 2,
    "nca_pair": lambda w, r, m, n, c: (
        -log_sigmoid(B * w) - (log_sigmoid(-B * w) + log_sigmoid(-B * r)) / 2
    ),
    "apo_zero": lambda w, r, m, n, c: 1 - sig(B * w) + sig(B * r),
    "apo_down": lambda w, r, m, n, c: sig(B * w) + 1 - sig(B * (w - r)),
    "discopop": lambda w, r, m, n, c: (
        -log_sigmoid(B * (w - r)) * (1 - sig(B * (w - r) / TAU))
        + math.exp(-B * (w - r)) * sig(B * (w - r) / TAU)
    ),
    "sft": lambda w, r, m, n, c: -c / m,
}  # fmt: skip


def random_pairs(count: int = 40) -> Pairs:
    random = torch.Generator().manual_seed(5)
    four = [-30 * torch.rand(count, generator=random, dtype=torch.float64) for _ in range(4)]
    lengths = [torch.randint(1, 40, (count,), generator=random).double() for _ in range(2)]
    return Pairs(*four, *lengths, four[0] / lengths[0], four[1] / lengths[1])


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_its_formula(name: str) -> None:
    given = random_pairs()
    section = DpoSection(beta=B, label_smoothing=E, discopop_tau=TAU)
    found = preference.loss_of(name)(given, section)
    columns = (given.chosen_ratio, given.rejected_ratio, given.chosen_length, given.rejected_length)
    rows = zip(*(column.tolist() for column in (*columns, given.chosen)), strict=True)
    expected = [FORMULAS[name](*row) for row in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_optimal_transport_compares_sorted_ratios() -> None:
    given, section = random_pairs(), DpoSection(beta=B, label_smoothing=E)
    ours = sorted((given.chosen - given.rejected).tolist())
    theirs = sorted((given.ref_chosen - given.ref_rejected).tolist())
    chosen, rejected = sorted(given.chosen_ratio.tolist()), sorted(given.rejected_ratio.tolist())
    for name, columns in (("aot", (ours, theirs)), ("aot_unpaired", (chosen, rejected))):
        expected = [FORMULAS["sigmoid"](a, b, 1, 1, 0) for a, b in zip(*columns, strict=True)]
        found = preference.loss_of(name)(given, section)
        assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_every_loss_has_a_formula_here() -> None:
    assert set(registry.entries("pair loss")) == {*FORMULAS, "aot", "aot_unpaired"}


def test_losses_are_weighted_and_rpo_is_one_of_them() -> None:
    given = random_pairs()
    names = ["sigmoid", "bco_pair", "sft"]
    mixed = preference.dpo(given, DpoSection(loss_type=names, loss_weights=[0.8, 0.2, 1.5]))
    one = DpoSection()
    parts = [
        w * preference.loss_of(n)(given, one) for n, w in zip(names, (0.8, 0.2, 1.5), strict=True)
    ]
    torch.testing.assert_close(mixed.total, sum(parts).sum())
    rpo = preference.dpo(given, DpoSection(rpo_alpha=0.7))
    expected = preference.sigmoid(given, one) + 0.7 * preference.sft(given, one)
    torch.testing.assert_close(rpo.total, expected.sum())


def test_without_a_reference_point_kto_asks_for_nothing_beside() -> None:
    given = answer_batch(pairs())
    made = objective("kto", {"loss_type": "apo_zero_unpaired"})
    assert float(made(given)["kl"][0]) == 0
    assert KtoSection().task == "unpaired"


def test_log_probabilities_are_those_of_the_whole_softmax() -> None:
    given = pair_batch(pairs())
    model = models()[0]
    expected = torch.cat(
        [
            model(torch.tensor([p.prompt + answer]))
            .logits[0]
            .log_softmax(-1)[torch.arange(len(p.prompt) - 1, len(p.prompt + answer) - 1), answer]
            for p in pairs()
            for answer in (p.chosen, p.rejected)
        ]
    )
    set_attention(model, "packed")
    found = read_logps(model, find_head(model), given).logps_N
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slope = torch.randn(len(found), generator=torch.Generator().manual_seed(0))
    theirs = torch.autograd.grad(expected @ slope, list(model.parameters()), retain_graph=True)
    ours = torch.autograd.grad(found @ slope, list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
