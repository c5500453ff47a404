"""PPO: advantages, loss and gradients are TRL's on the same batch, and the formulas written out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from swift.config.ppo import PpoSection
from swift.config.runs import RlhfConfig
from swift.data.stream import Collate
from swift.losses.drawn import Draw
from swift.losses.value import value_loss
from swift.models.attention import choose_layout
from swift.models.heads import find_head
from swift.rl.answers import Answer, samples_of
from swift.rl.critic import ValueHead, ValueModel
from swift.rl.gae import estimate, gae, token_rewards, whitened
from swift.rl.objective import PolicyObjective, joined, policy_batch, read_drawn

TRL = json.loads(Path(__file__).with_name("trl_ppo.json").read_text())
NAMES = {"kl_coef": "beta", "cliprange": "epsilon"}
RATE = 0.05  # of the plain gradient descent between TRL's epochs


def seeded(kind: Any, seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    return kind(LlamaConfig(**TRL["model"], **more))


def make(case: dict[str, Any], section: PpoSection, attention: str) -> PolicyObjective:
    """Policy and critic with the weights that TRL was given."""
    policy, value = (
        seeded(LlamaForCausalLM, 0),
        seeded(LlamaForSequenceClassification, 1, num_labels=1),
    )
    torch.nn.init.normal_(value.score.weight, std=0.3)
    choose_layout(policy, attention)
    choose_layout(value, attention)
    critic: Any = ValueModel(value)
    if case["shared"]:
        critic = ValueHead(TRL["model"]["hidden_size"], torch.device("cpu"))
        critic.score.weight.data.copy_(value.score.weight.data)
    return PolicyObjective(section, Draw(), policy, critic=critic)


def parameter_of(objective: PolicyObjective, name: str) -> torch.nn.Parameter:
    """The parameter that TRL's wrapper has under a name."""
    own = name.removeprefix("policy.")
    if own != name:
        return objective.model.get_parameter(own)
    own = name.removeprefix("value_model.")
    critic: Any = objective.critic
    inner = critic if isinstance(critic, ValueHead) else critic.model
    return inner.get_parameter(own)


@pytest.mark.parametrize("attention", ["auto", "eager"])
@pytest.mark.parametrize("name", TRL["cases"])
def test_an_update_is_that_of_trl(name: str, attention: str) -> None:
    case = TRL["cases"][name]
    section = PpoSection(**{NAMES.get(k, k): v for k, v in case["settings"].items()})
    objective = make(case, section, attention)
    collate = Collate(packed=attention == "auto")
    answers = [
        Answer(prompt, tokens, [True] * len(tokens), None, None, "length", "row", "", [score])
        for prompt, tokens, score in zip(
            case["prompts"], case["responses"], case["scores"], strict=True
        )
    ]
    batch = collate(samples_of(answers, [1.0] * len(answers)))
    reference = seeded(LlamaForCausalLM, 2)
    choose_layout(reference, attention)
    with torch.no_grad():
        seen, values = objective.read(batch)
        far = read_drawn(reference, find_head(reference), batch, Draw()).drawn
    assert values is not None
    length = len(case["responses"][0])
    for i, answer in enumerate(answers):
        span = slice(i * length, (i + 1) * length)
        answer.old, answer.values = seen.drawn[span].tolist(), values[span].tolist()
        answer.reference = far[span].tolist()
        assert answer.old == pytest.approx(case["logprobs"][i], abs=1e-5)
        assert answer.values == pytest.approx(case["values"][i], abs=1e-5)
        assert answer.reference == pytest.approx(case["ref_logprobs"][i], abs=1e-5)
    estimate(answers, [1.0], section)
    for i, answer in enumerate(answers):
        assert answer.gains == pytest.approx(case["advantages"][i], abs=1e-5)
        assert answer.returns == pytest.approx(case["returns"][i], abs=2e-5)
    made = policy_batch(
        batch, batch.weight,
        advantage_N=joined([a.advantages for a in answers]),
        old_N=joined([a.old for a in answers]),
        value_N=joined([a.values for a in answers]),
        return_N=joined([a.returns for a in answers]),
    )  # fmt: skip
    for epoch in case["epochs"]:
        objective.zero_grad()
        out = objective(made)
        (out["total"] / made.weight).backward()
        assert float(out["total"]) / made.weight == pytest.approx(epoch["loss"], abs=1e-5)
        for ours, theirs in {"value_loss": "value", "value_clip": "value_clip"}.items():
            total, count = out[ours].tolist()
            assert total / count == pytest.approx(epoch[theirs], rel=1e-5, abs=1e-5)
        (low, count), (high, _) = out["clip_low"].tolist(), out["clip_high"].tolist()
        assert (low + high) / count == pytest.approx(epoch["clip"], abs=1e-6)
        for theirs, expected in epoch["gradients"].items():
            parameter = parameter_of(objective, theirs)
            assert parameter.grad is not None
            flat = parameter.grad.double().flatten()
            value = float((flat * torch.arange(len(flat)).double().cos()).sum())
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-5), theirs
            parameter.data -= RATE * parameter.grad


def naive(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16 of the paper, term by term."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [
        sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(delta)))
        for t in range(len(delta))
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.7, 1.0)])
def test_advantages_are_the_sums_of_the_paper(gamma: float, lam: float) -> None:
    numbers = random.Random(3)
    rows = [
        ([numbers.gauss(0, 1) for _ in range(n)], [numbers.gauss(0, 1) for _ in range(n)])
        for n in (5, 1, 9, 2)
    ]
    expected = [x for rewards, values in rows for x in naive(rewards, values, gamma, lam)]
    sample = torch.arange(4).repeat_interleave(torch.tensor([5, 1, 9, 2]))
    flat = [torch.tensor([x for row in rows for x in row[i]], dtype=torch.float64) for i in (0, 1)]
    found = gae(*flat, sample, 4, PpoSection(gamma=gamma, lam=lam))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def answer(score: float, length: int = 3, finish: str = "stop", **more: Any) -> Answer:
    columns: dict[str, Any] = {
        "old": [-1.0 - i for i in range(length)],
        "reference": [-2.0 + i / 2 for i in range(length)],
        "values": [0.5 / (i + 1) for i in range(length)],
        **more,
    }
    own = [True] * length
    return Answer([5], [7] * length, own, None, None, finish, "row", "", [score], **columns)


def test_the_distance_costs_every_token_and_the_score_comes_at_the_last() -> None:
    section = PpoSection(beta=0.5, missing_eos_penalty=2.0)
    found = token_rewards([answer(3.0), answer(3.0, finish="length")], [2.0], section)
    costs = [-0.5 * (-1.0 - i - (-2.0 + i / 2)) for i in range(3)]
    expected = [costs[0], costs[1], costs[2] + 6.0, costs[0], costs[1], costs[2] + 6.0 - 2.0]
    assert found.tolist() == pytest.approx(expected)
    white = token_rewards([answer(3.0)], [1.0], PpoSection(whiten_rewards=True))
    plain = token_rewards([answer(3.0)], [1.0], PpoSection())
    assert float(white.std()) == pytest.approx(1, abs=1e-6)
    assert float(white.mean()) == pytest.approx(float(plain.mean()))


def test_what_was_not_judged_teaches_nothing_and_moves_no_mean() -> None:
    section = PpoSection(overlong_filter=True)
    alone = [answer(1.0), answer(0.0, 2)]
    mixed = [
        answer(1.0), answer(math.nan), answer(0.0, 2), answer(5.0, finish="length"),
        answer(9.0, finish="failed"), answer(0.0, 0),
    ]  # fmt: skip
    estimate(alone, [1.0], section)
    estimate(mixed, [1.0], section)
    assert mixed[0].gains == alone[0].gains and mixed[2].returns == alone[1].returns
    for one in (mixed[1], mixed[3], mixed[4], mixed[5]):
        assert one.gains == [0.0] * one.length and one.returns == one.values
    estimate(mixed[1:2], [1.0], section)  # nothing at all is known: nothing breaks
    assert mixed[1].gains == [0.0] * 3


def test_a_critic_that_is_right_leaves_no_advantage() -> None:
    section = PpoSection(beta=0.0, scale_rewards="none")
    right = answer(1.0, values=[1.0, 1.0, 1.0])
    estimate([right], [1.0], section)
    assert right.gains == pytest.approx([0.0] * 3) and right.returns == pytest.approx([1.0] * 3)
    assert whitened(torch.tensor([3.0])).tolist() == [3.0]


def test_a_value_beyond_its_range_gains_nothing() -> None:
    value = torch.tensor([0.1, 0.9, -0.9], requires_grad=True)
    loss, clipped = value_loss(value, torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), 0.2)
    assert loss.tolist() == pytest.approx([0.405, 0.32, 1.805])
    assert clipped.tolist() == [0, 1, 0]
    loss.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([-0.9, 0.0, -1.9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "ppo", "advantage": "group"}, "go together"),
        ({"kind": "grpo", "advantage": "gae"}, "go together"),
        ({"kind": "ppo", "scale_rewards": "group"}, "no groups"),
        ({"kind": "ppo", "dynamic_sample": True}, "groups of answers"),
        ({"kind": "ppo", "num_mini_batches": 2, "steps_per_generation": 4}, "leave one out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    given = {"model": {"path": "x"}, "data": {"train": ["x"]}, "reward": {"funcs": ["number"]}}
    with pytest.raises(ValueError, match=message):
        RlhfConfig.model_validate({**given, "rlhf": settings})


def test_a_critic_needs_no_group() -> None:
    given = {"model": {"path": "x"}, "data": {"train": ["x"]}, "reward": {"funcs": ["number"]}}
    for rlhf in ("ppo", {"kind": "ppo"}, PpoSection()):
        assert RlhfConfig.model_validate({**given, "rlhf": rlhf}).rollout.num_generations == 1
    many = {**given, "rlhf": "ppo", "rollout": {"num_generations": 4}}
    assert RlhfConfig.model_validate(many).rollout.num_generations == 4
    with pytest.raises(ValueError, match="2 or more"):
        RlhfConfig.model_validate({**given, "rlhf": "grpo", "rollout": {"num_generations": 1}})
