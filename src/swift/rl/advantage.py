"""From rewards to advantages: how much better an answer is than could be expected.

Axes: G prompts, K answers to each, F reward functions. A reward of NaN was not judged: the answer
is left out of means and deviations and has the advantage 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swift import registry
from swift.config.policy import PolicySection

TINY = 1e-4
"""Added to standard deviations; a group whose rewards are all equal has the advantage 0."""


def advantages(
    rewards_GKF: torch.Tensor,
    weights: Sequence[float],
    section: PolicySection,
    penalty_GK: torch.Tensor | None = None,
) -> torch.Tensor:
    """Advantages (G, K) in the precision of the rewards.

    Args:
        rewards_GKF: NaN where a function did not judge.
        weights: of the reward functions.
        section: which advantage, which scale.
        penalty_GK: taken off the rewards (beta times the KL), if any.
    """
    function = registry.load("advantage", section.advantage)
    rewards_GKF = rewards_GKF.clone()
    if section.advantage == "gdpo":
        found_GK = function(rewards_GKF, weights)
    else:
        rewards_GK = total(rewards_GKF, weights)
        if penalty_GK is not None:
            rewards_GK = rewards_GK - penalty_GK
        found_GK = function(rewards_GK, section.scale_rewards)
    return found_GK.nan_to_num(nan=0.0)


def total(rewards_GKF: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Weighted sums of what was judged; NaN where nothing was, (G, K)."""
    weights_F = rewards_GKF.new_tensor(list(weights))
    summed_GK = (rewards_GKF * weights_F).nansum(-1)
    return summed_GK.masked_fill(rewards_GKF.isnan().all(-1), torch.nan)


def group(rewards_GK: torch.Tensor, scale: str) -> torch.Tensor:
    """(r - mean(group)) / std: GRPO (arXiv:2402.03300, section 4.1).

    Without the division: Dr. GRPO (arXiv:2503.20783, section 3.2).
    """
    return scaled(rewards_GK - rewards_GK.nanmean(1, keepdim=True), rewards_GK, scale)


def leave_one_out(rewards_GK: torch.Tensor, scale: str) -> torch.Tensor:
    """Reward - mean of the others' rewards: RLOO (arXiv:2402.14740)."""
    judged_G1 = (~rewards_GK.isnan()).sum(1, keepdim=True)
    others_GK = (rewards_GK.nansum(1, keepdim=True) - rewards_GK) / (judged_G1 - 1)
    return scaled(rewards_GK - others_GK, rewards_GK, scale)


def batch(rewards_GK: torch.Tensor, scale: str) -> torch.Tensor:
    """Reward - mean(group), then over the deviation of these: REINFORCE++ with a baseline.

    arXiv:2501.03262. Deviations are those of the differences, not of the rewards.
    """
    centred_GK = rewards_GK - rewards_GK.nanmean(1, keepdim=True)
    return scaled(centred_GK, centred_GK, scale)


def gdpo(rewards_GKF: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Each reward normalised in its group, summed by weight, normalised over the batch.

    GDPO (arXiv:2601.05242): rewards of different sizes keep their say.
    """
    centred_GKF = rewards_GKF - rewards_GKF.nanmean(1, keepdim=True)
    each_GKF = centred_GKF / (deviation(rewards_GKF, 1) + TINY)
    summed_GK = total(each_GKF, weights)
    summed_GK = summed_GK.masked_fill(rewards_GKF.isnan().all(-1), torch.nan)
    return (summed_GK - summed_GK.nanmean()) / (deviation(summed_GK) + TINY)


def scaled(advantage_GK: torch.Tensor, of_GK: torch.Tensor, scale: str) -> torch.Tensor:
    """Advantages over a standard deviation: of each group, of the batch, or none."""
    if scale == "none":
        return advantage_GK
    return advantage_GK / (deviation(of_GK, 1 if scale == "group" else None) + TINY)


def deviation(values: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """The standard deviation (n - 1) without NaN, with ``dim`` kept; of fewer than two: NaN."""
    dims = tuple(range(values.dim())) if dim is None else dim
    mean = values.nanmean(dims, keepdim=True)
    judged = (~values.isnan()).sum(dims, keepdim=True)
    squares = (values - mean).square().nansum(dims, keepdim=True)
    return torch.where(judged > 1, squares / (judged - 1), torch.nan).sqrt()


def without_signal(rewards_GK: torch.Tensor) -> torch.Tensor:
    """Groups (G,) that teach nothing: all judged answers have the same reward, or fewer than two
    were judged.
    """
    low_G = rewards_GK.nan_to_num(nan=torch.inf).amin(1)
    high_G = rewards_GK.nan_to_num(nan=-torch.inf).amax(1)
    return ~(high_G > low_G)
