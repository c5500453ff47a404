"""Model and loss as one module: what is spread over processes and called once a micro-batch."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.data.batch import Batch
from swift.losses.cross_entropy import cross_entropy
from swift.models.anatomy import vocabulary
from swift.models.attention import run_body
from swift.models.heads import Head
from swift.models.parts import parts


class Objective(nn.Module):
    """Cross-entropy of the learned tokens of a batch; only they pay for the vocabulary."""

    def __init__(self, model: PreTrainedModel, head: Head) -> None:
        super().__init__()
        self.model = model
        self._head = head
        self._vocabulary = vocabulary(model)
        self._parts = parts(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: summed metrics."""
        hidden_TD = run_body(self.model, batch).flatten(0, 1)
        loss = cross_entropy(
            hidden_TD[batch.learned_N],
            batch.targets_N,
            batch.weights_N,
            self._head,
            self._head.learning(),
            self._vocabulary,
        )
        return {"total": loss.total + self._nothing(), **loss.sums}

    def _nothing(self) -> torch.Tensor | float:
        """Zero, by way of every weight that media alone reach.

        So each has a gradient in every batch, with images or without, and processes that exchange
        gradients never wait for one of them.
        """
        if not self._parts.several:
            return 0.0
        learning = (
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and self._parts.of(name) != "language"
        )
        return sum((parameter.flatten()[:1].sum() * 0.0 for parameter in learning), 0.0)
