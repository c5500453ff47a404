"""Losses of scores of documents. Axes: Q documents, of B queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swift.losses.loss import Loss


def pointwise(scores_Q: torch.Tensor, labels_Q: torch.Tensor, query_Q: torch.Tensor) -> Loss:
    """The binary cross-entropy of each document, averaged over those of a query.

    Pointwise ranking (Nogueira and Cho, arXiv:1901.04085, equation 1).

    Args:
        scores_Q: of the documents; float32.
        labels_Q: their relevance, from 0 to 1.
        query_Q: the number of the query of each, int64.
    """
    loss_Q = F.binary_cross_entropy_with_logits(scores_Q, labels_Q, reduction="none")
    count_B = torch.bincount(query_Q)
    loss = (loss_Q / count_B[query_Q]).sum()
    return Loss(loss, *_said(scores_Q.detach(), labels_Q, _table(query_Q)))


def listwise(scores_Q: torch.Tensor, labels_Q: torch.Tensor, query_Q: torch.Tensor) -> Loss:
    """-sum_d p_d log softmax(s)_d over the documents of a query, p the share of a document in all
    relevance. A query without any relevant document has no such share, and counts 0.

    ListNet with top-one probabilities (Cao et al. 2007), p as given rather than as a
    softmax, so that one relevant document makes it the softmax loss.

    Args:
        scores_Q: of the documents; float32.
        labels_Q: their relevance, at least 0.
        query_Q: the number of the query of each, int64.
    """
    inside_BQ = _table(query_Q)
    weight_BQ = torch.where(inside_BQ, labels_Q, 0.0)
    share_BQ = weight_BQ / weight_BQ.sum(1, keepdim=True).clamp(
        min=torch.finfo(labels_Q.dtype).tiny
    )
    low = torch.finfo(scores_Q.dtype).min
    log_BQ = scores_Q.expand_as(share_BQ).masked_fill(~inside_BQ, low).log_softmax(1)
    loss_BQ = torch.where(share_BQ > 0, -share_BQ * log_BQ, 0.0)
    return Loss(loss_BQ.sum(), *_said(scores_Q.detach(), labels_Q, inside_BQ))


def _table(query_Q: torch.Tensor) -> torch.Tensor:
    """Which documents are of which query, (B, Q)."""
    queries = torch.unique(query_Q)
    return queries[:, None] == query_Q


def _said(
    scores_Q: torch.Tensor, labels_Q: torch.Tensor, inside_BQ: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Metrics over queries that have documents of different relevance: how often the first is of
    the most relevant ones, and the reciprocal rank of the first of these.
    """
    sums = {"top1": scores_Q.new_zeros(()), "mrr": scores_Q.new_zeros(())}
    counts = {"top1": scores_Q.new_zeros(()), "mrr": scores_Q.new_zeros(())}
    for inside_Q in inside_BQ:
        score, label = scores_Q[inside_Q], labels_Q[inside_Q]
        if label.min() == label.max():
            continue
        best = score[label == label.max()].max()
        rank = 1 + ((score >= best) & (label < label.max())).sum()
        for name, value in (("top1", (rank == 1).float()), ("mrr", 1 / rank)):
            sums[name] += value
            counts[name] += 1
    return sums, counts
