"""The objective of a reranker: a score behind a query and a document."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.chat.load import load_tokenizer
from swift.config.task import GenerativeRerankerSection, RerankerSection
from swift.data.batch import Batch
from swift.data.stream import Collate
from swift.errors import ConfigError, DataError
from swift.losses import ranking
from swift.models.attention import run_body
from swift.models.heads import find_head
from swift.train.objective import media_zero
from swift.train.reference import Reference
from swift.train.reward import read_scores, scored

_LOSSES = {"pointwise_reranker": ranking.pointwise, "listwise_reranker": ranking.listwise}


class RankingObjective(nn.Module):
    """The loss of queries, over the scores that a model gives documents."""

    unit = "queries"

    def __init__(
        self,
        section: RerankerSection,
        model: PreTrainedModel,
        collate: Collate,
        read: Callable[[PreTrainedModel, Batch], torch.Tensor],
    ) -> None:
        """Take a model and what reads the score of every sequence, (Q,), from it."""
        super().__init__()
        self.model, self.collate, self._read = model, collate, read
        self._loss, self._zero = _LOSSES[section.loss_type], media_zero(model)
        self._most = 1.0 if section.loss_type == "pointwise_reranker" else math.inf

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics.

        Raises:
            DataError: a relevance is none.
        """
        check(batch, self._most)
        scores_Q = self._read(self.model, batch)
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


def reranker(
    section: RerankerSection, model: PreTrainedModel, reference: Reference
) -> RankingObjective:
    """Of a model with a single output."""
    return RankingObjective(section, model, scored(model, share=True), read_scores)


def generative(
    section: GenerativeRerankerSection, model: PreTrainedModel, reference: Reference
) -> RankingObjective:
    """The same for a model that writes.

    Raises:
        ConfigError: an answer is no token.
    """
    yes, no = answers(section, Path(model.name_or_path or "."))
    head = find_head(model)

    def read(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        hidden_TD = run_body(model, batch).flatten(0, 1)
        logits_QV = head(hidden_TD[batch.ends_Q]).float()
        return logits_QV[:, yes] - logits_QV[:, no]

    collate = Collate(counted=True, share=True, whole=True)
    return RankingObjective(section, model, collate, read)


def answers(section: GenerativeRerankerSection, folder: Path) -> tuple[int, int]:
    """The tokens of yes and no of a checkpoint.

    Raises:
        ConfigError: one of them is no token.
    """
    words = load_tokenizer(folder).get_vocab()
    for flag in ("positive_token", "negative_token"):
        if getattr(section, flag) not in words:
            raise ConfigError(
                f"--task.{flag}: {getattr(section, flag)!r} is no token of {folder}; name one"
            )
    return words[section.positive_token], words[section.negative_token]
