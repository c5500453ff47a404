"""Every course of the learning rate is transformers' own, at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from transformers import optimization as theirs

from swift import registry
from swift.config.optimizer import (
    ConstantSection,
    CosineSection,
    LinearSection,
    ScheduleSection,
    WsdSection,
)
from swift.optim.schedule import warmup_steps

STEPS = 40


def ours(section: ScheduleSection, steps: int = STEPS) -> list[float]:
    return [registry.build(section, step, steps) for step in range(steps)]


def their(make: Callable[..., Any], **settings: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, **settings)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_cosine(warmup: int) -> None:
    expected = their(
        theirs.get_cosine_schedule_with_warmup, num_warmup_steps=warmup, num_training_steps=STEPS
    )
    assert ours(CosineSection(warmup_steps=warmup)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_to_a_rate_above_zero(warmup: int) -> None:
    expected = their(
        theirs.get_cosine_with_min_lr_schedule_with_warmup,
        num_warmup_steps=warmup,
        num_training_steps=STEPS,
        min_lr_rate=0.1,
    )
    found = ours(CosineSection(warmup_steps=warmup, min_ratio=0.1))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_linear(warmup: int) -> None:
    expected = their(
        theirs.get_linear_schedule_with_warmup, num_warmup_steps=warmup, num_training_steps=STEPS
    )
    assert ours(LinearSection(warmup_steps=warmup)) == pytest.approx(expected, abs=1e-12)


def test_linear_to_a_rate_above_zero_is_linear() -> None:
    found = ours(LinearSection(min_ratio=0.2))
    assert found == pytest.approx([1 - 0.8 * step / STEPS for step in range(STEPS)], abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_constant(warmup: int) -> None:
    expected = their(theirs.get_constant_schedule_with_warmup, num_warmup_steps=warmup)
    assert ours(ConstantSection(warmup_steps=warmup)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
def test_warmup_stable_decay(warmup: int, ratio: float) -> None:
    expected = their(
        theirs.get_wsd_schedule,
        num_warmup_steps=warmup,
        num_decay_steps=math.ceil(ratio * STEPS),
        num_training_steps=STEPS,
        decay_type="linear",
    )
    found = ours(WsdSection(warmup_steps=warmup, decay_ratio=ratio))
    assert found == pytest.approx(expected, abs=1e-12)


def test_warmup_stable_decay_to_a_rate_above_zero() -> None:
    found = ours(WsdSection(warmup_steps=4, decay_ratio=0.25, min_ratio=0.2))
    assert found[:5] == [0, 0.25, 0.5, 0.75, 1]
    assert set(found[4:31]) == {1.0}
    assert found[30:] == pytest.approx([1 - 0.08 * step for step in range(10)], abs=1e-12)


def test_a_share_of_steps_for_the_warmup_is_rounded_up_as_transformers_does() -> None:
    for ratio, steps in [(0.1, 40), (0.07, 100), (0.33, 10), (0.01, 5)]:
        expected = TrainingArguments(warmup_steps=ratio, use_cpu=True).get_warmup_steps(steps)
        assert warmup_steps(CosineSection(warmup_ratio=ratio), steps) == expected


def test_a_number_of_steps_wins_over_a_share() -> None:
    assert warmup_steps(CosineSection(warmup_ratio=0.5, warmup_steps=3), STEPS) == 3


@pytest.mark.parametrize(
    "section", [CosineSection(), LinearSection(), ConstantSection(), WsdSection()]
)
def test_a_run_of_one_step_has_its_full_rate(section: ScheduleSection) -> None:
    assert ours(section, 1) == [1.0]
