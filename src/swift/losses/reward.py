"""The loss of a reward model. Axes: P pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swift.config.alignment import RmSection
from swift.losses.loss import Loss


def bradley_terry(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    margin_P: torch.Tensor | None,
    section: RmSection,
) -> Loss:
    """-log sigmoid(w - l - margin) + c (w + l)^2 of the scores w and l of a pair.

    Bradley-Terry (arXiv:2203.02155, equation 1) with a margin (arXiv:2307.09288, section 3.2.2) and
    scores held around 0 (arXiv:2312.09244, section 2).

    Args:
        chosen_P: scores of the chosen answers; float32.
        rejected_P: of the rejected ones.
        margin_P: by how much the one should be above the other; None: not said.
        section: the coefficient c.
    """
    difference = chosen_P - rejected_P
    loss_P = -F.logsigmoid(difference if margin_P is None else difference - margin_P)
    if section.center_rewards_coefficient:
        loss_P = loss_P + section.center_rewards_coefficient * (chosen_P + rejected_P) ** 2
    chosen, rejected = chosen_P.detach(), rejected_P.detach()
    sums = {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/accuracies": (chosen > rejected).float().sum(),
        "rewards/margins": (chosen - rejected).sum(),
    }
    return Loss(loss_P.sum(), sums)
