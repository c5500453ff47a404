"""Losses of answers that are good or bad, each by itself.

Axes: Q answers.
"""

from __future__ import annotations

import torch

from swift.config.alignment import KtoSection
from swift.losses.loss import Loss


def kto(ratio_Q: torch.Tensor, good_Q: torch.Tensor, kl: torch.Tensor, section: KtoSection) -> Loss:
    """W (1 - sigmoid(b (r - z))) of good answers, w (1 - sigmoid(b (z - r))) of bad ones.

    Kahneman-Tversky optimization (arXiv:2402.01306, equations 7 and 8); without z it is APO-zero of
    answers by themselves (arXiv:2408.06266, equation 7).

    Args:
        ratio_Q: r, log-ratio of model and reference; float32.
        good_Q: 1 for a good answer, 0 for a bad one.
        kl: z, how far the model is from the reference, without gradient; scalar, at least 0.
        section: beta, and the weights of good and bad answers.
    """
    point = kl if section.loss_type == "kto" else torch.zeros_like(kl)
    side_Q = torch.where(good_Q > 0, 1.0, -1.0)
    weight_Q = torch.where(good_Q > 0, section.desirable_weight, section.undesirable_weight)
    loss_Q = weight_Q * (-section.beta * side_Q * (ratio_Q - point)).sigmoid()
    rewards_Q, count = section.beta * ratio_Q.detach(), good_Q.sum()
    sums = {
        "rewards/chosen": (rewards_Q * good_Q).sum(),
        "rewards/rejected": (rewards_Q * (1 - good_Q)).sum(),
        "kl": kl.detach() * len(good_Q),
    }
    counts = {"rewards/chosen": count, "rewards/rejected": len(good_Q) - count}
    return Loss(loss_Q.sum(), sums, counts)
