"""Objectives of preference pairs: log-probabilities of both answers, and a loss over them.

Axes: N learned tokens, Q sequences (of every pair the chosen one, then the rejected one), P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.alignment import CpoSection, DpoSection, OrpoSection, SimpoSection
from swift.data.batch import Batch
from swift.data.stream import Collate
from swift.losses import preference
from swift.losses.logps import Logps, sequence_sums
from swift.losses.loss import Loss
from swift.losses.preference import Pairs
from swift.models.heads import find_head
from swift.train.objective import media_zero, read_logps
from swift.train.reference import NO_REFERENCE, Reference


class PairObjective(nn.Module):
    """A loss over the log-probabilities of pairs, and those of a reference where it wants them."""

    unit, collate = "pairs", Collate(counted=True, share=True)

    def __init__(
        self,
        loss: Callable[[Pairs], Loss],
        model: PreTrainedModel,
        reference: Reference = NO_REFERENCE,
        ld_alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._zero = media_zero(model)
        self._loss, self.reference, self._ld_alpha = loss, reference, ld_alpha
        self._head = find_head(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        theirs_N = self.reference(batch)
        ours = read_logps(self.model, self._head, batch)
        pairs = pairs_of(ours.logps_N, theirs_N, batch, self._ld_alpha)
        loss = self._loss(pairs)
        said = spoken(ours, pairs, batch)
        found = Loss(loss.total, {**loss.sums, **said.sums}, {**loss.counts, **said.counts})
        return found.out(batch.weight, also=self._zero())


def pairs_of(
    ours_N: torch.Tensor, theirs_N: torch.Tensor, batch: Batch, ld_alpha: float | None = None
) -> Pairs:
    """Log-probabilities of tokens, of model and reference, as those of whole answers.

    Args:
        ours_N: of the model.
        theirs_N: of the reference.
        batch: of pairs.
        ld_alpha: weight of the tokens by which the longer answer is longer (arXiv:2409.06411,
            equation 10). None: as of all others.
    """
    count, sequence_N = len(batch.ends_Q), batch.sequence_N
    weights_N = batch.weights_N
    if ld_alpha is not None:
        weights_N = weights_N * _length_weights(sequence_N, count, ld_alpha)
    chosen, rejected = _halves(sequence_sums(ours_N * weights_N, sequence_N, count))
    ref_chosen, ref_rejected = _halves(sequence_sums(theirs_N * weights_N, sequence_N, count))
    lengths_Q = sequence_sums(batch.weights_N, sequence_N, count)
    means_Q = sequence_sums(ours_N * batch.weights_N, sequence_N, count) / lengths_Q
    return Pairs(chosen, rejected, ref_chosen, ref_rejected, *_halves(lengths_Q), *_halves(means_Q))


def _halves(values_Q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values_Q[0::2], values_Q[1::2]


def _length_weights(sequence_N: torch.Tensor, count: int, alpha: float) -> torch.Tensor:
    """1 for as many tokens of each answer as the shorter one of its pair has, ``alpha`` behind."""
    counts_Q = torch.bincount(sequence_N, minlength=count)
    firsts_Q = counts_Q.cumsum(0) - counts_Q
    place_N = torch.arange(len(sequence_N), device=sequence_N.device) - firsts_Q[sequence_N]
    shorter_P = torch.minimum(*_halves(counts_Q))
    inside_N = place_N < shorter_P.repeat_interleave(2)[sequence_N]
    return torch.where(inside_N, 1.0, alpha)


def spoken(ours: Logps, pairs: Pairs, batch: Batch) -> Loss:
    """Metrics of what the model says of the answers, named as TRL names them."""
    chosen_N = (batch.sequence_N % 2 == 0).float()
    hits, count = (ours.hits_N * chosen_N).sum(), chosen_N.sum()
    sums = {
        "logps/chosen": pairs.chosen.sum(),
        "logps/rejected": pairs.rejected.sum(),
        "logits/chosen": (ours.mean_logits_N * chosen_N).sum(),
        "logits/rejected": (ours.mean_logits_N * (1 - chosen_N)).sum(),
        "token_accuracy": hits,
    }
    counts = {
        "logits/chosen": count,
        "logits/rejected": len(chosen_N) - count,
        "token_accuracy": count,
    }
    return Loss(torch.zeros(()), sums, counts)


def dpo(section: DpoSection, model: PreTrainedModel, reference: Reference) -> PairObjective:
    """Direct preference optimization and its relatives."""
    return PairObjective(
        lambda pairs: preference.dpo(pairs, section), model, reference, section.ld_alpha
    )


def _alone(loss: Callable[[Pairs, Any], Loss]) -> Callable[..., PairObjective]:
    """An objective that asks no reference."""

    def objective(
        section: CpoSection | SimpoSection | OrpoSection,
        model: PreTrainedModel,
        reference: Reference,
    ) -> PairObjective:
        return PairObjective(lambda pairs: loss(pairs, section), model)

    return objective


cpo = _alone(preference.cpo)
simpo = _alone(preference.simpo)
orpo = _alone(preference.orpo)
