"""The objective of embeddings: the hidden state of the last token of a text is its vector.

Axes: Q texts (of every row the anchor, then the others), B anchors, M others.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.task import EmbeddingSection
from swift.data.batch import Batch
from swift.data.stream import Collate
from swift.errors import ConfigError
from swift.losses.contrastive import Texts
from swift.losses.contrastive import embedding as loss_of
from swift.models.anatomy import text_config
from swift.models.attention import run_body
from swift.train.objective import media_zero
from swift.train.reference import Reference


class EmbeddingObjective(nn.Module):
    """A loss over the vectors of a micro-batch; negatives of other rows are those on one process.

    Raises:
        ConfigError: a size of the section is no part of a vector.
    """

    unit, collate = "rows", Collate(counted=True, whole=True)

    def __init__(
        self, section: EmbeddingSection, model: PreTrainedModel, reference: Reference
    ) -> None:
        super().__init__()
        width = int(text_config(model).hidden_size)
        if (largest := max(section.mrl_dims, default=0)) > width:
            raise ConfigError(f"--mrl_dims: {largest}, and vectors of this model have {width}")
        self.model = model
        self._section, self._zero = section, media_zero(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        loss = loss_of(texts_of(read_vectors(self.model, batch), batch), self._section)
        return loss.out(batch.weight, also=self._zero())


def read_vectors(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The vector of every sequence, float32 (Q, D), of any length."""
    return run_body(model, batch).flatten(0, 1)[batch.ends_Q].float()


def texts_of(vectors_QD: torch.Tensor, batch: Batch) -> Texts:
    """The vectors of a batch by what they are: the first of a row is its anchor's."""
    first_Q = torch.ones_like(batch.sample_Q, dtype=torch.bool)
    first_Q[1:] = batch.sample_Q[1:] != batch.sample_Q[:-1]
    return Texts(vectors_QD[first_Q], vectors_QD[~first_Q], batch.sample_Y, batch.labels)


embedding = EmbeddingObjective
