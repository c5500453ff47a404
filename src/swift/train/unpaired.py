"""The objective of answers that are good or bad, each by itself.

Axes: N learned tokens, Q answers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.alignment import KtoSection
from swift.data.batch import Batch
from swift.data.sample import Sample
from swift.data.stream import Collate
from swift.losses import kto as losses
from swift.losses.logps import sequence_sums
from swift.losses.loss import Loss
from swift.models.heads import find_head
from swift.train.objective import media_zero, read_logps
from swift.train.reference import Reference


def mismatched(samples: list[Sample]) -> list[Sample]:
    """The prompt of each sample with the answer of another one: what the model says of answers that
    were not meant.
    """
    others = [sample.partner or samples[i - 1] for i, sample in enumerate(samples)]
    return [_exchanged(*pair) for pair in zip(samples, others, strict=True)]


def _exchanged(asked: Sample, answered: Sample) -> Sample:
    begin, other = (int(np.argmax(sample.weights > 0)) for sample in (asked, answered))
    tokens = np.concatenate([asked.tokens[:begin], answered.tokens[other:]])
    weights = np.concatenate([asked.weights[:begin], answered.weights[other:]])
    return replace(
        asked, tokens=tokens, weights=weights, parts=(), labels=(), reference=None, partner=None
    )


class UnpairedObjective(nn.Module):
    """A loss over the log-ratios of single answers, and how far the model is from the reference."""

    unit, collate = "answers", Collate(counted=True, beside=mismatched)

    def __init__(self, section: KtoSection, model: PreTrainedModel, reference: Reference) -> None:
        super().__init__()
        self.model = model
        self._section, self._reference = section, reference
        self._head = find_head(model)
        self._zero = media_zero(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        kl, count = self._distance(batch), len(batch.ends_Q)
        theirs_N = self._reference(batch)
        ours = read_logps(self.model, self._head, batch)
        logps_Q, ratio_Q = (
            sequence_sums(values_N * batch.weights_N, batch.sequence_N, count)
            for values_N in (ours.logps_N, ours.logps_N - theirs_N)
        )
        good_Q = batch.labels
        loss = losses.kto(ratio_Q, good_Q, kl, self._section)
        good_N = good_Q[batch.sequence_N]
        sums = {
            "logps/chosen": (logps_Q * good_Q).sum(),
            "logps/rejected": (logps_Q * (1 - good_Q)).sum(),
            "logits/chosen": (ours.mean_logits_N * good_N).sum(),
            "logits/rejected": (ours.mean_logits_N * (1 - good_N)).sum(),
        }
        chosen, tokens = good_Q.sum(), good_N.sum()
        counts = {
            "logps/chosen": chosen,
            "logps/rejected": count - chosen,
            "logits/chosen": tokens,
            "logits/rejected": len(good_N) - tokens,
        }
        found = Loss(loss.total, {**loss.sums, **sums}, {**loss.counts, **counts})
        return found.out(batch.weight, also=self._zero())

    @torch.no_grad()
    def _distance(self, batch: Batch) -> torch.Tensor:
        """The reference point z: the mean log-ratio of answers that were not meant, at least 0.

        It is that of a micro-batch, as in TRL on one device.
        """
        other = batch.beside
        if other is None or not len(other.ends_Q) or self._section.loss_type != "kto":
            return batch.weights_N.new_zeros(())
        theirs_N = self._reference(other)
        ours_N = read_logps(self.model, self._head, other).logps_N
        ratio_N = (ours_N - theirs_N) * other.weights_N
        return (ratio_N.sum() / len(other.ends_Q)).clamp(min=0)


kto = UnpairedObjective
