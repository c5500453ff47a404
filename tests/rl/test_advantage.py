"""Advantages: TRL's numbers, the formulas written out, and what was not judged."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.config.policy import GrpoSection
from swift.rl.advantage import advantages, total, without_signal

TRL = json.loads((Path(__file__).parents[1] / "losses/trl_policy.json").read_text())
NAN = math.nan


def rewards() -> torch.Tensor:
    rows = [[NAN if x is None else x for x in row] for row in TRL["rewards"]]
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4, 2)


@pytest.mark.parametrize("name", TRL["advantages"])
def test_advantages_are_those_of_trl(name: str) -> None:
    case = TRL["advantages"][name]
    found = advantages(rewards(), TRL["weights"], GrpoSection(**case["ours"]))
    assert found.flatten().tolist() == pytest.approx(case["advantages"], abs=1e-5)


def naive(groups: list[list[float]], kind: str, scale: str) -> list[float]:
    flat = [r for group in groups for r in group]
    centred = [r - statistics.mean(group) for group in groups for r in group]
    found = []
    for group in groups:
        of = [r - statistics.mean(group) for r in group] if kind == "batch" else group
        for i, r in enumerate(group):
            others = group[:i] + group[i + 1 :]
            base = statistics.mean(others if kind == "leave_one_out" else group)
            deviation = {
                "none": 1 - 1e-4,
                "group": statistics.stdev(of),
                "batch": statistics.stdev(centred if kind == "batch" else flat),
            }[scale]
            found.append((r - base) / (deviation + 1e-4))
    return found


@pytest.mark.parametrize("kind", ["group", "leave_one_out", "batch"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_every_scale_is_the_formula(kind: str, scale: Any) -> None:
    groups = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.4, 0.4], [-1.0, 2.0, 0.5, 0.0]]
    table = torch.tensor(groups, dtype=torch.float64)[..., None]
    section = GrpoSection(advantage=kind, scale_rewards=scale)
    found = advantages(table, [1.0], section).flatten().tolist()
    assert found == pytest.approx(naive(groups, kind, scale), abs=1e-12)


@pytest.mark.parametrize("kind", ["group", "leave_one_out", "batch", "gdpo"])
def test_what_was_not_judged_teaches_nothing_and_moves_no_mean(kind: str) -> None:
    judged = torch.tensor([[1.0, 0.0, 3.0]], dtype=torch.float64)[..., None]
    with_gap = torch.tensor([[1.0, 0.0, NAN, 3.0]], dtype=torch.float64)[..., None]
    section = GrpoSection(advantage=kind)
    expected = advantages(judged, [1.0], section)[0].tolist()
    found = advantages(with_gap, [1.0], section)[0].tolist()
    assert found[2] == 0
    assert [found[0], found[1], found[3]] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["group", "leave_one_out", "batch", "gdpo"])
def test_equal_rewards_and_groups_of_one_teach_nothing(kind: str) -> None:
    section = GrpoSection(advantage=kind)
    same = torch.full((2, 4, 1), 0.3, dtype=torch.float64)
    assert advantages(same, [1.0], section).abs().max() < 1e-9
    alone = torch.tensor([[[1.0], [NAN]]], dtype=torch.float64)
    assert advantages(alone, [1.0], section).tolist() == [[0.0, 0.0]]


def test_the_penalty_is_taken_off_the_reward() -> None:
    table = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    section = GrpoSection(scale_rewards="none")
    penalty = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    found = advantages(table, [1.0], section, penalty)
    assert found[0].tolist() == pytest.approx([0.3, -0.3])


def test_groups_without_signal_are_found() -> None:
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [NAN, 1.0], [NAN, NAN], [NAN, NAN]])
    assert without_signal(table).tolist() == [True, False, True, True, True]
    assert total(torch.tensor([[[1.0, NAN], [NAN, NAN]]]), [2.0, 1.0])[0, 0] == 2
