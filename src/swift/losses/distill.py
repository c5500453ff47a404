"""Distillation: how far what a student believes is from what a teacher believes, in chunks.

Axes: N learned positions, D hidden size, V vocabulary, K tokens that the teacher tells of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from swift.losses.cross_entropy import Judged, chunk_rows, in_chunks
from swift.losses.loss import Loss

Theirs = Callable[[slice], tuple[torch.Tensor, torch.Tensor | None]]
"""Rows -> the teacher's logits there (n, K), and the ids (n, K) of the tokens that they are of;
None: those of the whole vocabulary, in its order. Log-probabilities do as well as logits."""


def distillation(
    hidden_ND: torch.Tensor,
    weights_N: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    learning: Sequence[torch.Tensor],
    vocabulary: int,
    theirs: Theirs,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Loss:
    """Sum over positions of weight * generalised JSD of teacher and student.

    Where the teacher tells of K tokens alone, both are taken over these, and sum to 1 there. Of
    student and teacher one chunk of logits exists at a time.

    Args:
        hidden_ND: the student's last hidden states of learned positions.
        weights_N: float32, above 0.
        head: the student's, (n, D) -> logits (n, V).
        learning: the parameters inside ``head`` that need gradients.
        vocabulary: V, which decides the size of a chunk.
        theirs: what the teacher believes.
        beta: 0: KL(teacher || student); 1: KL(student || teacher); between: see
            :func:`generalised_jsd`.
        temperature: of both.

    Returns:
        ``total`` (nats), and in ``sums`` ``agreement``: the weight of the positions where both find
        the same token most likely.
    """

    def judge(logits_NV: torch.Tensor, part: slice, slope: bool) -> Judged:
        told_NK, ids_NK = theirs(part)
        seen_NK = logits_NV.float()
        if ids_NK is not None:
            seen_NK = seen_NK.gather(1, ids_NK)
        ours_NK = (seen_NK / temperature).log_softmax(-1)
        theirs_NK = (told_NK.float() / temperature).log_softmax(-1)
        loss_N, slope_NK = generalised_jsd(ours_NK, theirs_NK, beta, slope=slope)
        weight_N = weights_N[part]
        best_N = told_NK.argmax(-1)
        if ids_NK is not None:
            best_N = ids_NK.gather(1, best_N[:, None])[:, 0]
        hits_M = ((logits_NV.argmax(-1) == best_N) * weight_N).sum()[None]
        loss = (loss_N * weight_N).sum()
        if slope_NK is None:
            return loss, hits_M, None
        slope_NK.mul_((weight_N / temperature)[:, None])
        if ids_NK is None:
            return loss, hits_M, slope_NK
        return loss, hits_M, torch.zeros_like(logits_NV).scatter_(1, ids_NK, slope_NK.to(logits_NV))

    rows = chunk_rows(vocabulary, hidden_ND.device)
    total, (hits,) = in_chunks(hidden_ND, head, learning, rows, judge)
    return Loss(total, {"agreement": hits})


def generalised_jsd(
    ours_NV: torch.Tensor, theirs_NV: torch.Tensor, beta: float, *, slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``beta KL(t || m) + (1 - beta) KL(s || m)`` with ``m = beta t + (1 - beta) s``, by position.

    Generalised Jensen-Shannon divergence of teacher t and student s (arXiv:2306.13649, equation 1);
    at its ends, where that is 0, the Kullback-Leibler divergence that it tends to when divided by
    beta (1 - beta): beta 0 is KL(t || s), beta 1 is KL(s || t), as in TRL.

    Args:
        ours_NV: log-probabilities of the student.
        theirs_NV: of the teacher.
        beta: from 0 to 1.
        slope: whether the derivative is wanted.

    Returns:
        The divergence (N,) in nats, and its derivative by the student's logits.
    """
    chance_NV, their_chance_NV = ours_NV.exp(), theirs_NV.exp()
    if beta == 0:
        loss_N = (their_chance_NV * (theirs_NV - ours_NV)).sum(-1)
        return loss_N, chance_NV.sub_(their_chance_NV) if slope else None
    mixed_NV = theirs_NV
    share = 1.0
    loss_N = torch.zeros_like(ours_NV[:, 0])
    if beta < 1:
        mixed_NV = torch.logaddexp(ours_NV + math.log1p(-beta), theirs_NV + math.log(beta))
        share = 1 - beta
        loss_N = beta * (their_chance_NV * (theirs_NV - mixed_NV)).sum(-1)
    ratio_NV = ours_NV - mixed_NV
    away_N = (chance_NV * ratio_NV).sum(-1)
    loss_N = loss_N + share * away_N
    if not slope:
        return loss_N, None
    return loss_N, ratio_NV.sub_(away_N[:, None]).mul_(chance_NV).mul_(share)
