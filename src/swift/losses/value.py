"""The loss of a critic: how far its values are from what then came.

Axes: N tokens that the model wrote.
"""

from __future__ import annotations

import torch


def value_loss(
    value_N: torch.Tensor, old_N: torch.Tensor, return_N: torch.Tensor, most: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error, of the value or of the value near the old one: whichever is larger.

    Clipped as the policy is (PPO2 of OpenAI's baselines, TRL's PPOTrainer), so that a step that
    leaves the old value by more than ``most`` gains nothing.

    Args:
        value_N: of the critic, with gradient.
        old_N: its values at the generation.
        return_N: what they should have been.
        most: the clip range.

    Returns:
        The loss of every token; 1 where clipping decides it, else 0.
    """
    near_N = value_N.clamp(old_N - most, old_N + most)
    free_N, held_N = (value_N - return_N).square(), (near_N - return_N).square()
    return torch.maximum(free_N, held_N) / 2, (held_N > free_N).float().detach()
