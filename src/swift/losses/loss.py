"""What every loss returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Loss:
    """A sum, never a mean: the loop divides once, by the weight of the whole step.

    ``sums`` holds metrics as sums too, each divided by the same weight when shown.
    """

    total: torch.Tensor  # scalar, float32
    sums: dict[str, torch.Tensor]  # scalars, float32, without gradient
