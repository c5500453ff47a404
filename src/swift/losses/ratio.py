"""How likely the new policy makes what the old one wrote, as a ratio: of tokens or of answers.

Axes: N tokens that the model wrote, S samples. ``sample_N`` says whose token each is.
"""

from __future__ import annotations

import torch


def by_sample(values_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """Sums over the tokens of each sample, (S,)."""
    return values_N.new_zeros(samples).index_add(0, sample_N, values_N)


def mean_by_sample(values_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """Means over the tokens of each sample, (S,)."""
    counts_S = torch.bincount(sample_N, minlength=samples).clamp(min=1)
    return by_sample(values_N, sample_N, samples) / counts_S


def token(log_ratio_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """Of each token, pi / pi_old (PPO, arXiv:1707.06347, eq. 6)."""
    return log_ratio_N.exp()


def sequence(log_ratio_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """Geometric mean over an answer's tokens: s_i of GSPO (arXiv:2507.18071, eq. 7)."""
    return mean_by_sample(log_ratio_N, sample_N, samples).exp()[sample_N]


def sequence_token(log_ratio_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """The value of ``sequence`` with the gradient of a token: s_it of GSPO-token (eq. 14)."""
    mean_N = mean_by_sample(log_ratio_N.detach(), sample_N, samples)[sample_N]
    return (log_ratio_N - log_ratio_N.detach() + mean_N).exp()


def trajectory(log_ratio_N: torch.Tensor, sample_N: torch.Tensor, samples: int) -> torch.Tensor:
    """Product over an answer's tokens: the answer is one action (RLOO, arXiv:2402.14740)."""
    return by_sample(log_ratio_N, sample_N, samples).exp()[sample_N]
