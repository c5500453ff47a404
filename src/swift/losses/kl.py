"""Estimates of KL(pi || reference) from tokens that pi drew.

J. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html). All are 0 where both
agree. k1 is unbiased as a value, k2 has the right gradient on tokens of pi itself, k3 is unbiased
and never negative; k1 in a loss has the expected gradient 0 and does nothing but add noise.
"""

from __future__ import annotations

import torch


def k1(logprob_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Log pi - log ref."""
    return logprob_N - reference_N


def k2(logprob_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """(log pi - log ref)^2 / 2."""
    return (logprob_N - reference_N).square() / 2


def k3(logprob_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Ref / pi - 1 - log(ref / pi)."""
    difference_N = reference_N - logprob_N
    return difference_N.exp() - difference_N - 1
