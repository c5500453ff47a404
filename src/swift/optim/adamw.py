"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from swift.config.optimizer import AdamWSection


def build(
    section: AdamWSection, named: Iterable[tuple[str, nn.Parameter]], learning_rate: float
) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101) over the parameters that learn; matrices decay, vectors do not.

    Args:
        section: its settings.
        named: parameters with their names, in a fixed order.
        learning_rate: peak rate.
    """
    learning = [parameter for _, parameter in named if parameter.requires_grad]
    matrices = [parameter for parameter in learning if parameter.ndim >= 2]
    vectors = [parameter for parameter in learning if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(section.beta1, section.beta2),
        eps=section.epsilon,
        fused=True,
    )
