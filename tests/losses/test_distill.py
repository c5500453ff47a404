"""The divergence of student and teacher: TRL's numbers, the formula by autograd, in chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from swift.losses import cross_entropy as room
from swift.losses.distill import Theirs, distillation, generalised_jsd

TRL = json.loads(Path(__file__).with_name("trl_gkd.json").read_text())
N, D, V = 200, 16, 50


def told(logits_NV: torch.Tensor, top: int | None) -> Theirs:
    def theirs(part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        return (logits_NV[part], None) if top is None else logits_NV[part].topk(top)

    return theirs


def naive(
    ours_NV: torch.Tensor, theirs_NV: torch.Tensor, beta: float, temperature: float, top: int | None
) -> torch.Tensor:
    """Arithmetic of equation 1 with probabilities, in float64, by position."""
    ours_NV, theirs_NV = ours_NV.double() / temperature, theirs_NV.double() / temperature
    if top is not None:
        theirs_NV, ids = theirs_NV.topk(top)
        ours_NV = ours_NV.gather(1, ids)
    s, t = ours_NV.softmax(-1), theirs_NV.softmax(-1)
    if beta == 0:
        return (t * (t / s).log()).sum(-1)
    if beta == 1:
        return (s * (s / t).log()).sum(-1)
    m = beta * t + (1 - beta) * s
    return (beta * t * (t / m).log() + (1 - beta) * s * (s / m).log()).sum(-1)


@pytest.mark.parametrize("case", TRL["cases"], ids=lambda c: f"{c['beta']}-{c['temperature']}")
def test_loss_and_gradient_are_those_of_trl(case: dict[str, float]) -> None:
    student = torch.tensor(TRL["student"]).flatten(0, 1).requires_grad_()
    teacher = torch.tensor(TRL["teacher"]).flatten(0, 1)
    learned = torch.tensor(TRL["labels"]).flatten() != -100
    loss = distillation(
        student[learned], torch.ones(int(learned.sum())), lambda x: x, [], V,
        told(teacher[learned], None), case["beta"], case["temperature"],
    ).total  # fmt: skip
    loss.backward()
    assert float(loss) == pytest.approx(case["sum"], rel=1e-5)
    assert student.grad is not None
    expected = torch.tensor(case["gradient"]).flatten(0, 1)
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("elements", [10**6, 128 * V, 1], ids=["one", "two", "many"])
@pytest.mark.parametrize("top", [None, 7])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_loss_and_all_gradients_are_the_formula_however_it_is_cut(
    beta: float, top: int | None, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room.CHUNK_ELEMENTS, "cpu", elements)
    torch.manual_seed(0)
    head = nn.Linear(D, V)
    hidden_ND, teacher_NV = torch.randn(N, D, requires_grad=True), torch.randn(N, V) * 2
    weights_N = torch.rand(N) * 3
    leaves = [hidden_ND, *head.parameters()]
    loss = distillation(
        hidden_ND, weights_N, head, list(head.parameters()), V, told(teacher_NV, top), beta, 0.7
    )
    found = torch.autograd.grad(loss.total * 1.7, leaves)
    plain = (naive(head(hidden_ND), teacher_NV, beta, 0.7, top) * weights_N.double()).sum()
    expected = torch.autograd.grad(plain * 1.7, leaves)
    assert float(loss.total) == pytest.approx(float(plain), rel=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-4, atol=1e-5)
    agreed_N = head(hidden_ND).argmax(-1) == teacher_NV.argmax(-1)
    assert float(loss.sums["agreement"]) == pytest.approx(float((agreed_N * weights_N).sum()))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_teacher_that_is_the_student_teaches_nothing(beta: float) -> None:
    torch.manual_seed(0)
    hidden_ND, head = torch.randn(N, D, requires_grad=True), nn.Linear(D, V)
    logits_NV = head(hidden_ND).detach()
    loss = distillation(hidden_ND, torch.ones(N), head, [], V, told(logits_NV, None), beta)
    loss.total.backward()
    assert abs(float(loss.total)) < 1e-4 and float(loss.sums["agreement"]) == N
    assert hidden_ND.grad is not None and float(hidden_ND.grad.abs().max()) < 1e-6


def test_it_is_bounded_and_symmetric_at_one_half() -> None:
    """JSD in nats is at most log 2; with beta 0.5 student and teacher may change places."""
    ours, theirs = (torch.randn(N, V) * 8).log_softmax(-1), (torch.randn(N, V) * 8).log_softmax(-1)
    one, _ = generalised_jsd(ours, theirs, 0.5, slope=False)
    other, _ = generalised_jsd(theirs, ours, 0.5, slope=False)
    torch.testing.assert_close(one, other)
    assert float(one.min()) >= 0 and float(one.max()) <= 0.6932


def test_no_positions_are_no_loss() -> None:
    head: Callable[[torch.Tensor], torch.Tensor] = nn.Linear(D, V)
    hidden_ND = torch.zeros(0, D, requires_grad=True)
    loss = distillation(hidden_ND, torch.zeros(0), head, [], V, told(torch.zeros(0, V), None))
    loss.total.backward()
    assert float(loss.total) == 0.0
