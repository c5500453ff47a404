"""What every loss returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Loss:
    """A sum, never a mean: the loop divides once, by the weight of the whole step.

    ``sums`` holds metrics as sums too. Each is divided, when shown, by its own entry in ``counts``,
    else by the same weight.
    """

    total: torch.Tensor  # scalar, float32
    sums: dict[str, torch.Tensor]  # scalars, float32, without gradient
    counts: dict[str, torch.Tensor] = field(default_factory=dict)  # scalars, float32

    def out(self, weight: float, *, also: torch.Tensor | float = 0.0) -> dict[str, torch.Tensor]:
        """As a model gives it to the loop: ``total``, and of every metric (sum, what divides it).

        Args:
            weight: of the batch.
            also: a zero that the total depends on.
        """
        common = self.total.new_tensor(weight)
        metrics = {
            name: torch.stack([value.float(), self.counts.get(name, common).float()]).detach()
            for name, value in self.sums.items()
        }
        return {"total": self.total + also, **metrics}
