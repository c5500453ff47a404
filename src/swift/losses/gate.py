"""What keeps a step near the old policy: from ratio and advantage to what is maximised.

Axes: N tokens that the model wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from swift.config.policy import PolicySection


@dataclass(frozen=True)
class Gated:
    """What a gate sees of a micro-batch."""

    ratio_N: torch.Tensor  # with gradient
    advantage_N: torch.Tensor
    logprob_N: torch.Tensor  # with gradient
    log_ratio_N: torch.Tensor  # of the tokens, whatever the ratio is of
    sample_N: torch.Tensor
    samples: int


Gate = Callable[[Gated, PolicySection], torch.Tensor]
"""Returns, of each token, what is maximised."""


def clip(x: Gated, section: PolicySection) -> torch.Tensor:
    """The smaller of ``r A`` and ``r A`` with r between 1 - eps and 1 + eps_high.

    PPO (arXiv:1707.06347, eq. 7); apart above and below: DAPO (arXiv:2503.14476, eq. 8); ``delta``
    bounds r where A is negative: two-sided GRPO (INTELLECT-2, arXiv:2505.07291).
    """
    inside_N = x.ratio_N.clamp(1 - section.epsilon, 1 + section.high)
    ratio_N = x.ratio_N if section.delta is None else x.ratio_N.clamp(max=section.delta)
    return torch.minimum(ratio_N * x.advantage_N, inside_N * x.advantage_N)


def cispo(x: Gated, section: PolicySection) -> torch.Tensor:
    """Log pi times A and min(r, eps_high), the latter without gradient.

    MiniMax-M1 (arXiv:2506.13585), without a lower bound as there; ``epsilon_high`` is the
    bound itself, as in ScaleRL (arXiv:2510.13786).
    """
    return x.ratio_N.detach().clamp(max=section.high) * x.advantage_N * x.logprob_N


def sapo(x: Gated, section: PolicySection) -> torch.Tensor:
    """4 / tau sigmoid(tau (r - 1)) A; tau differs for positive and other advantages.

    SAPO (arXiv:2511.20347).
    """
    tau_N = torch.full_like(x.ratio_N, section.tau_neg)
    tau_N = tau_N.masked_fill(x.advantage_N > 0, section.tau_pos)
    return torch.sigmoid(tau_N * (x.ratio_N - 1)) * 4 / tau_N * x.advantage_N


def fipo(x: Gated, section: PolicySection) -> torch.Tensor:
    """``clip`` times a weight by what becomes of the tokens behind: f A with f = exp(F) bounded.

    F_t = sum_{k >= t} gamma^(k - t) log(pi_k / pi_old_k), gamma = 2^(-1 / decay rate); tokens
    beyond ``delta`` count as 0 (FIPO, arXiv:2603.19835, in the form of ms-swift 4.6).
    """
    log_ratio_N = x.log_ratio_N.detach()
    if section.delta is not None:
        log_ratio_N = torch.where(x.ratio_N > section.delta, 0.0, log_ratio_N)
    future_N = discounted(log_ratio_N, x.sample_N, x.samples, 2 ** (-1 / section.fipo_decay_rate))
    weight_N = future_N.exp()
    if section.fipo_clip_range:
        low = 1.0 if section.fipo_clip_high_only else 1 - section.fipo_clip_range
        weight_N = weight_N.clamp(low, 1 + section.fipo_clip_range)
    if section.fipo_safety_threshold is not None:
        risky_N = (x.advantage_N < 0) & (x.ratio_N.detach() > section.fipo_safety_threshold)
        weight_N = torch.where(risky_N, weight_N.clamp(0.8, 1.0), weight_N)
    return clip(x, section) * weight_N


def discounted(
    values_N: torch.Tensor, sample_N: torch.Tensor, samples: int, gamma: float
) -> torch.Tensor:
    """Sums of each token's value and those behind it in its sample, each step times ``gamma``."""
    lengths_S = torch.bincount(sample_N, minlength=samples)
    starts_S = lengths_S.cumsum(0) - lengths_S
    place_N = torch.arange(len(values_N), device=values_N.device) - starts_S[sample_N]
    longest = int(lengths_S.max()) if len(values_N) else 0
    table_SL = values_N.new_zeros(samples, longest)
    table_SL[sample_N, place_N] = values_N
    for at in range(longest - 2, -1, -1):
        table_SL[:, at] += gamma * table_SL[:, at + 1]
    return table_SL[sample_N, place_N]


def none(x: Gated, section: PolicySection) -> torch.Tensor:
    """R A: the plain policy gradient with importance sampling."""
    return x.ratio_N * x.advantage_N
