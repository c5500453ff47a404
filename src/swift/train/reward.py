"""The objective of a reward model: a score behind the last token of an answer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.alignment import RmSection
from swift.data.batch import Batch
from swift.data.stream import Collate
from swift.losses.reward import bradley_terry
from swift.models.anatomy import output_head, text_config
from swift.models.attention import run_body
from swift.train.objective import media_zero
from swift.train.reference import Reference


class RewardObjective(nn.Module):
    """The loss of pairs, over the scores that a model with a single output gives them.

    Transformers takes the score behind the last token that is not its padding token, which in many
    checkpoints is the stop token; so it is here.
    """

    unit = "pairs"

    def __init__(self, section: RmSection, model: PreTrainedModel, reference: Reference) -> None:
        super().__init__()
        self.model = model
        self._section, self._zero = section, media_zero(model)
        self.collate = scored(model, share=True)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        scores_Q = read_scores(self.model, batch)
        margin_P = batch.labels if len(batch.labels) else None
        loss = bradley_terry(scores_Q[0::2], scores_Q[1::2], margin_P, self._section)
        return loss.out(batch.weight, also=self._zero())


def read_scores(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The score of every sequence, float32 (Q,), of a model with a single output."""
    return read_outputs(model, batch)[:, 0]


def read_outputs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """What a model says of every sequence, float32 (Q, C)."""
    hidden_TD = run_body(model, batch).flatten(0, 1)
    outputs_QC: torch.Tensor = output_head(model)(hidden_TD[batch.ends_Q])
    return outputs_QC.float()


def scored(model: PreTrainedModel, *, share: bool) -> Collate:
    """How sequences are laid out to be scored as transformers does it.

    Args:
        model: one that gives scores.
        share: what the sequences of a sample begin with alike is read once.
    """
    padding = text_config(model).pad_token_id
    return Collate(counted=True, share=share, whole=True, padding=padding)


rm = RewardObjective
