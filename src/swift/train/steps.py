"""The objective of a process reward model: behind every step of an answer, is it right?"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.alignment import PrmSection
from swift.data.batch import Batch
from swift.data.stream import PLAIN
from swift.errors import DataError
from swift.losses.classification import single_label
from swift.models.anatomy import output_head
from swift.models.attention import run_body
from swift.train.objective import media_zero
from swift.train.reference import Reference


class StepObjective(nn.Module):
    """Cross-entropy of right and wrong at the last token of every step (arXiv:2211.14275)."""

    unit, collate = "steps", PLAIN

    def __init__(self, section: PrmSection, model: PreTrainedModel, reference: Reference) -> None:
        super().__init__()
        self.model, self._zero = model, media_zero(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics.

        Raises:
            DataError: a row was cut.
        """
        if len(batch.labels) != len(batch.learned_N):
            raise DataError(
                f"{', '.join(batch.places[:3])}: a row was cut between its steps; "
                "--truncation_strategy delete leaves such rows out"
            )
        hidden_ND = run_body(self.model, batch).flatten(0, 1)[batch.learned_N]
        logits_NC = output_head(self.model)(hidden_ND).float()
        loss = single_label(logits_NC, batch.labels.long())
        return loss.out(batch.weight, also=self._zero())


prm = StepObjective
