"""From rewards and a critic's values to the advantage of every token.

Axes: N tokens that the model wrote, S answers; those of an answer lie together, in order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from swift import registry
from swift.config.ppo import PpoSection
from swift.losses.gate import discounted
from swift.rl.advantage import total
from swift.rl.answers import Answer, learned

_TINY = 1e-8  # added to variances


def gae(
    reward_N: torch.Tensor,
    value_N: torch.Tensor,
    sample_N: torch.Tensor,
    samples: int,
    section: PpoSection,
) -> torch.Tensor:
    """Generalised advantages: sum_l (gamma lambda)^l delta_(t + l), (N,).

    delta_t = r_t + gamma V_(t + 1) - V_t, and nothing is to come behind the last token
    (arXiv:1506.02438, equations 11 and 16).
    """
    next_N = torch.cat([value_N[1:], value_N.new_zeros(1)])
    last_N = torch.ones_like(sample_N, dtype=torch.bool)
    last_N[:-1] = sample_N[1:] != sample_N[:-1]
    delta_N = reward_N + section.gamma * next_N.masked_fill(last_N, 0.0) - value_N
    return discounted(delta_N, sample_N, samples, section.gamma * section.lam)


def whitened(values_N: torch.Tensor, *, centred: bool = True) -> torch.Tensor:
    """Values with the deviation 1, and the mean 0 where they are centred."""
    if len(values_N) < 2:
        return values_N
    mean = values_N.mean()
    scaled_N = (values_N - mean) * (values_N.var() + _TINY).rsqrt()
    return scaled_N if centred else scaled_N + mean


def token_rewards(
    answers: Sequence[Answer], weights: Sequence[float], section: PpoSection
) -> torch.Tensor:
    """The cost of the distance at every token, and the reward of an answer at its last one."""
    parts = []
    for answer in answers:
        reward_L = torch.zeros(answer.length, dtype=torch.float64)
        if section.kl_in_reward and section.beta:
            assert answer.old is not None and answer.reference is not None
            pair = [torch.tensor(x, dtype=torch.float64) for x in (answer.old, answer.reference)]
            reward_L -= section.beta * registry.load("kl", section.kl)(*pair)
        reward_L[-1] += score(answer, weights, section)
        parts.append(reward_L)
    found_N = torch.cat(parts)
    return whitened(found_N, centred=False) if section.whiten_rewards else found_N


def score(answer: Answer, weights: Sequence[float], section: PpoSection) -> float:
    """What an answer is worth as a whole; NaN where it was not judged."""
    found = float(total(torch.tensor([[answer.rewards]], dtype=torch.float64), weights))
    cut = answer.finish == "length" and section.missing_eos_penalty is not None
    return found - (section.missing_eos_penalty or 0.0) if cut else found


def estimate(answers: Sequence[Answer], weights: Sequence[float], section: PpoSection) -> None:
    """Give every token of some answers its advantage, and the critic what to learn from it.

    Tokens of answers that nothing is learned from, or that were not judged, have the advantage 0
    and the return that the critic expected; they have no part in means and deviations.
    """
    for answer in answers:
        answer.gains, answer.returns = [0.0] * answer.length, list(answer.values or [])
    used = [
        answer
        for answer in answers
        if learned(answer, section) and not math.isnan(score(answer, weights, section))
    ]
    if not used:
        return
    lengths = torch.tensor([answer.length for answer in used])
    sample_N = torch.arange(len(used)).repeat_interleave(lengths)
    value_N = torch.tensor([x for a in used for x in a.values or []], dtype=torch.float64)
    reward_N = token_rewards(used, weights, section)
    gain_N = gae(reward_N, value_N, sample_N, len(used), section)
    return_N = gain_N + value_N
    if section.scale_rewards == "batch":
        gain_N = whitened(gain_N)
    parts = [column.split(lengths.tolist()) for column in (gain_N, return_N)]
    for answer, gains_L, returns_L in zip(used, *parts, strict=True):
        answer.gains, answer.returns = gains_L.tolist(), returns_L.tolist()
        answer.advantage = float(gains_L.mean())
