"""The objective of a reranker: a score behind a query and a document."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.task import RerankerSection
from swift.data.batch import Batch
from swift.errors import DataError
from swift.losses import ranking
from swift.train.objective import media_zero
from swift.train.reference import Reference
from swift.train.reward import read_scores, scored

_LOSSES = {"pointwise_reranker": ranking.pointwise, "listwise_reranker": ranking.listwise}


class RankingObjective(nn.Module):
    """The loss of queries, over the scores that a model with a single output gives documents."""

    unit = "queries"

    def __init__(
        self, section: RerankerSection, model: PreTrainedModel, reference: Reference
    ) -> None:
        super().__init__()
        self.model = model
        self.collate = scored(model, share=True)
        self._loss, self._zero = _LOSSES[section.loss_type], media_zero(model)
        self._most = 1.0 if section.loss_type == "pointwise_reranker" else math.inf

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics.

        Raises:
            DataError: a relevance is none.
        """
        check(batch, self._most)
        scores_Q = read_scores(self.model, batch)
        loss = self._loss(scores_Q, batch.labels, batch.sample_Q)
        return loss.out(batch.weight, also=self._zero())


def check(batch: Batch, most: float) -> None:
    """Whether every relevance is from 0 to ``most``.

    Raises:
        DataError: it is not; the message names the row.
    """
    for sample, label in zip(batch.sample_Y.tolist(), batch.labels.tolist(), strict=True):
        if not 0 <= label <= most:
            raise DataError(
                f"{batch.places[sample]}: relevance {label:g}; pointwise_reranker takes 0 to 1, "
                "listwise_reranker 0 or more"
            )


reranker = RankingObjective
