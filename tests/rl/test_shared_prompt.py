"""Answers whose prompt is read once are learned from as answers that each have their own."""

from __future__ import annotations

import random
from typing import Any

import pytest

import tiny
from swift.config.policy import CispoSection, GrpoSection, GspoSection, PolicySection
from swift.data.batch import batch
from swift.data.pack import pack
from swift.losses.drawn import Draw
from swift.models.attention import set_attention
from swift.rl.answers import Answer, samples_of
from swift.rl.objective import PolicyObjective, joined, policy_batch


def answers(seed: int) -> list[Answer]:
    """Three prompts with several answers each: some alike at the start, one empty, one of turns."""
    draw = random.Random(seed)
    made = []
    for group in range(3):
        prompt = [draw.randrange(3, 400) for _ in range(draw.choice([1, 5, 30]))]
        start = [draw.randrange(3, 400)] * draw.randint(0, 2)
        for i in range(draw.randint(1, 4)):
            own = [True] * (len(start) + draw.randint(0, 6))
            if own and i == 2:
                own += [False, False, True]  # what an environment said in between
            tokens = [*start, *(draw.randrange(3, 400) for _ in own[len(start) :])]
            values = [[draw.gauss(-3, 1) for _ in range(sum(own))] for _ in range(4)]
            made.append(
                Answer(prompt, tokens, own, values[0], values[1], "stop", f"p:{group}", "", [0.0],
                       advantage=draw.gauss(0, 1), old=values[2], plain=values[2],
                       reference=values[3])
            )  # fmt: skip
    return made


def learned(chosen: list[Answer], section: PolicySection, *, share: bool) -> dict[str, Any]:
    """Loss, metrics and gradients."""
    model = tiny.make_model()
    set_attention(model, "packed")
    objective = PolicyObjective(section, Draw(0.9, 0, 0.95, 0.0), model)
    laid = pack(samples_of(chosen, [1.0 / (1 + i) for i in range(len(chosen))]), share=share)
    given = policy_batch(
        batch(laid),
        float(len(chosen)),
        advantage_N=joined([[a.advantage] * a.length for a in chosen]),
        engine_N=joined([a.engine for a in chosen]),
        engine_drawn_N=joined([a.drawn for a in chosen]),
        old_N=joined([a.old for a in chosen]),
        plain_N=joined([a.plain for a in chosen]),
        reference_drawn_N=joined([a.reference for a in chosen]),
    )
    out = objective(given)
    out["total"].backward()
    found = {name: value.detach().double() for name, value in out.items()}
    found |= {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    return {**found, "positions": laid.count}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "section", [GrpoSection(), GspoSection(beta=0.1), CispoSection(correction="sequence_mask")]
)
def test_a_prompt_read_once_changes_nothing(section: PolicySection, seed: int) -> None:
    chosen = answers(seed)
    once = learned(chosen, section, share=True)
    plain = learned(chosen, section, share=False)
    assert once.pop("positions") < plain.pop("positions")
    assert once.keys() == plain.keys()
    for name, right in plain.items():
        bound = 1e-5 * max(float(right.norm()), 1.0)
        assert float((once[name] - right).norm()) <= bound, name
