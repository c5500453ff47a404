"""The objective of every policy-gradient method here: ratio, gate, correction, reference.

    total = sum_n  weight_n * ( - gate(ratio_n, A_n) * correction_n * keep_n  +  beta * kl_n )

Axes: N tokens that the model wrote, S samples. Each choice is a function of its own: ratio.py,
gate.py, kl.py, aggregate.py (the weights), and swift.rl.advantage (A).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from swift import registry
from swift.config.policy import PolicySection
from swift.losses.gate import Gated
from swift.losses.loss import Loss
from swift.losses.ratio import by_sample, mean_by_sample


@dataclass(frozen=True)
class Acted:
    """What is known of the tokens of a micro-batch, beside what the policy now thinks of them.

    Log-probabilities are those of the distribution that tokens are drawn from.
    """

    sample_N: torch.Tensor  # int64: whose token it is; those of a sample lie together, in order
    samples: int
    weight_N: torch.Tensor  # float32: what the token counts for
    advantage_N: torch.Tensor  # float32
    old_N: torch.Tensor | None = None  # of the policy before the first step; None: it is this one
    engine_N: torch.Tensor | None = None  # of the engine that drew them
    reference_N: torch.Tensor | None = None
    keep_N: torch.Tensor | None = None  # float32, 1 or 0: whether its advantage is learned


def policy_loss(logprob_N: torch.Tensor, acted: Acted, section: PolicySection) -> Loss:
    """The loss of a micro-batch.

    Args:
        logprob_N: of the policy, with gradient.
        acted: the tokens.
        section: the choices.

    Returns:
        ``total``; and in ``sums``, over tokens: ``clip_low`` and ``clip_high`` (outside of the
        range in the direction of the advantage), ``kl``, ``correction`` (its weights).
    """
    old_N = logprob_N.detach() if acted.old_N is None else acted.old_N
    log_ratio_N = logprob_N - old_N
    ratio_N = registry.load("ratio", section.ratio)(log_ratio_N, acted.sample_N, acted.samples)
    seen = Gated(ratio_N, acted.advantage_N, logprob_N, log_ratio_N, acted.sample_N, acted.samples)
    gain_N = registry.load("gate", section.gate)(seen, section)
    sums = clipped(seen, section)
    if section.off_policy_mask is not None:
        gain_N = gain_N * near_policy(logprob_N.detach(), old_N, acted, section.off_policy_mask)
    if acted.keep_N is not None:
        gain_N = gain_N * acted.keep_N
    if acted.engine_N is not None and section.correction:
        weight_N = correction(old_N - acted.engine_N, acted, section)
        gain_N = gain_N * weight_N
        sums["correction"] = weight_N.sum()
    loss_N = -gain_N
    if acted.reference_N is not None and section.beta and not section.kl_in_reward:
        kl_N = registry.load("kl", section.kl)(logprob_N, acted.reference_N)
        if section.kl_unbiased:
            kl_N = kl_N * ratio_N
        loss_N = loss_N + section.beta * kl_N
        sums["kl"] = kl_N.sum()
    return Loss((loss_N * acted.weight_N).sum(), {k: v.detach() for k, v in sums.items()})


def clipped(x: Gated, section: PolicySection) -> dict[str, torch.Tensor]:
    """How many tokens are out of the range on the side to which their advantage pushes them."""
    low, high = 1 - section.epsilon, 1 + section.high
    if section.gate == "cispo":
        low, high = 0.0, section.high
    ratio_N = x.ratio_N.detach()
    return {
        "clip_low": ((ratio_N < low) & (x.advantage_N < 0)).float().sum(),
        "clip_high": ((ratio_N > high) & (x.advantage_N > 0)).float().sum(),
    }


def correction(difference_N: torch.Tensor, acted: Acted, section: PolicySection) -> torch.Tensor:
    """Weights that turn an expectation under the engine into one under the trainer's old policy.

    pi_old / pi_engine of a token or, as their product, of an answer; beyond the threshold bounded
    (truncated importance sampling) or 0 (masked): F. Yao et al., "Your efficient RL framework
    secretly brings you off-policy RL training", 2025.

    Args:
        difference_N: log pi_old - log pi_engine.
        acted: the tokens.
        section: which, and the threshold.
    """
    assert section.correction is not None
    level, _, bound = section.correction.partition("_")
    if level == "sequence":
        difference_N = by_sample(difference_N, acted.sample_N, acted.samples)[acted.sample_N]
    weight_N = difference_N.exp()
    if bound == "truncate":
        return weight_N.clamp(max=section.correction_threshold)
    return torch.where(weight_N > section.correction_threshold, 0.0, weight_N)


def near_policy(
    logprob_N: torch.Tensor, old_N: torch.Tensor, acted: Acted, most: float
) -> torch.Tensor:
    """1 for tokens to learn from, 0 for those of bad answers that the policy has left already.

    An answer is left when A < 0 and mean(log pi_behaviour - log pi) > ``most``; the behaviour is
    the engine's where it is known (DeepSeek-V3.2, arXiv:2512.02556, section 3.1).
    """
    behaviour_N = old_N if acted.engine_N is None else acted.engine_N
    far_S = mean_by_sample(behaviour_N - logprob_N, acted.sample_N, acted.samples) > most
    return (~(far_S[acted.sample_N] & (acted.advantage_N < 0))).float()
