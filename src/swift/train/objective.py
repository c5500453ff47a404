"""Model and loss as one module: what is spread over processes and called once a micro-batch.

An objective gives ``total``, the summed loss of a batch, and of every metric a sum and what divides
it. ``unit`` is what batches count, ``collate`` how they are laid out for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.task import WritingSection
from swift.data.batch import Batch
from swift.data.stream import PLAIN
from swift.losses.cross_entropy import cross_entropy
from swift.losses.logps import Logps, token_logps
from swift.models.anatomy import vocabulary
from swift.models.attention import run_body
from swift.models.heads import Head, find_head
from swift.models.parts import parts


class Objective(nn.Module):
    """Cross-entropy of the learned tokens of a batch; only they pay for the vocabulary."""

    unit, collate = "tokens", PLAIN

    def __init__(self, model: PreTrainedModel, head: Head) -> None:
        super().__init__()
        self.model = model
        self._head = head
        self._vocabulary = vocabulary(model)
        self._zero = media_zero(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        hidden_TD = run_body(self.model, batch).flatten(0, 1)
        loss = cross_entropy(
            hidden_TD[batch.learned_N],
            batch.targets_N,
            batch.weights_N,
            self._head,
            self._head.learning(),
            self._vocabulary,
        )
        return loss.out(batch.weight, also=self._zero())


def writing(section: WritingSection, model: PreTrainedModel, reference: object) -> Objective:
    """Learn to write; no reference is asked."""
    return Objective(model, find_head(model))


def read_logps(model: PreTrainedModel, head: Head, batch: Batch) -> Logps:
    """What a model says of the learned tokens of a batch."""
    hidden_TD = run_body(model, batch).flatten(0, 1)
    rows_ND, learning = hidden_TD[batch.learned_N], head.learning()
    return token_logps(rows_ND, batch.targets_N, head, learning, vocabulary(model))


def media_zero(model: PreTrainedModel) -> Callable[[], torch.Tensor | float]:
    """What gives zero, by way of every weight that media alone reach.

    So each has a gradient in every batch, with images or without, and processes that exchange
    gradients never wait for one of them.
    """
    found = parts(model)

    def zero() -> torch.Tensor | float:
        learning = (
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and found.of(name) != "language"
        )
        return sum((parameter.flatten()[:1].sum() * 0.0 for parameter in learning), 0.0)

    return zero if found.several else lambda: 0.0
