"""AdamW is torch's own, with decay for matrices only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import tiny
from swift import registry
from swift.config.optimizer import AdamWSection
from swift.config.tuner import FullSection, LoraSection
from swift.tune import full, lora


class Curve(nn.Module):
    """A quadratic in matrices, vectors and a tensor of experts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.experts = nn.Parameter(torch.randn(2, 3, 4))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self) -> torch.Tensor:
        return sum((p - 0.3).square().sum() * (i + 1) for i, p in enumerate(self.parameters()))


def descend(make: Callable[[Curve], torch.optim.Optimizer]) -> tuple[Curve, list[float]]:
    curve, values = Curve(), []
    optimizer = make(curve)
    for _ in range(50):
        value = curve()
        values.append(value.item())
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return curve, values


SECTIONS = [
    AdamWSection(),
    AdamWSection(weight_decay=0.0),
    AdamWSection(weight_decay=0.5, beta1=0.8, beta2=0.999, epsilon=1e-3),
]


@pytest.mark.parametrize("section", SECTIONS)
def test_fifty_steps_are_those_of_torch(section: AdamWSection) -> None:
    def plain(curve: Curve) -> torch.optim.Optimizer:
        decays = [curve.first.weight, curve.experts]
        stays = [curve.first.bias, curve.norm.weight, curve.norm.bias, curve.scale]
        return torch.optim.AdamW(
            [{"params": decays}, {"params": stays, "weight_decay": 0.0}],
            lr=0.02,
            betas=(section.beta1, section.beta2),
            eps=section.epsilon,
            weight_decay=section.weight_decay,
            foreach=False,
            fused=False,
        )

    expected, values = descend(plain)
    found, ours = descend(lambda curve: registry.build(section, curve.named_parameters(), 0.02))
    assert ours == pytest.approx(values, rel=1e-5)
    assert ours[-1] < 0.2 * ours[0]
    for (name, parameter), exact in zip(
        found.named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(parameter, exact, rtol=1e-5, atol=1e-6, msg=name)


def test_biases_and_norms_do_not_decay() -> None:
    """Without a slope, a step is the decay alone."""
    curve = Curve()
    before = {name: p.detach().clone() for name, p in curve.named_parameters()}
    section = AdamWSection(weight_decay=0.5)
    optimizer = registry.build(section, curve.named_parameters(), 0.1)
    for parameter in curve.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in curve.named_parameters():
        if name in ("first.weight", "experts"):
            torch.testing.assert_close(parameter, before[name] * (1 - 0.1 * 0.5))
        else:
            assert torch.equal(parameter, before[name]), name


def held(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_it_holds_what_learns_and_nothing_else() -> None:
    model = tiny.make_model()
    full.attach(FullSection(freeze=["model.embed_tokens"]), model, [], "base")
    optimizer = registry.build(AdamWSection(), model.named_parameters(), 1e-4)
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert held(optimizer) == learning
    assert [len(group["params"]) for group in optimizer.param_groups] == [3 * 7, 3 * 2 + 1]


def test_an_adapter_has_matrices_only() -> None:
    model = tiny.make_model()
    lora.attach(LoraSection(), model, [], "base")
    optimizer = registry.build(AdamWSection(), model.named_parameters(), 1e-4)
    assert len(optimizer.param_groups) == 1
    assert held(optimizer) == {id(p) for p in model.parameters() if p.requires_grad}
