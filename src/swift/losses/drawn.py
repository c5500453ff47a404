"""Log-probabilities of tokens under the very distribution that they were drawn from.

Temperature, top-k, top-p and min-p are part of the policy: what an engine draws from is what the
trainer computes with. Axes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift.losses.cross_entropy import chunk_rows


@dataclass(frozen=True)
class Draw:
    """How tokens are drawn from logits: divided by the temperature, then cut in this order."""

    temperature: float = 1.0  # above 0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0

    def cuts(self) -> LogitsProcessorList:
        """The cuts as transformers makes them, so that its engine and this file never differ."""
        found = LogitsProcessorList()
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            found.append(TopPLogitsWarper(self.top_p))
        if self.min_p:
            found.append(MinPLogitsWarper(self.min_p))
        return found


@dataclass(frozen=True)
class Believed:
    """What a model thinks of tokens; all (N,) float32."""

    drawn: torch.Tensor  # log-probability under the draw, with gradient
    plain: torch.Tensor  # under temperature 1 and without cuts, as engines report it
    entropy: torch.Tensor  # nats, at the temperature, without cuts


def believed(
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    vocabulary: int,
    draw: Draw,
) -> Believed:
    """Log-probabilities of tokens, chunk by chunk: logits of N x V never exist at once.

    With gradient, each chunk is computed again in the backward pass. A token that the cuts would
    leave out is put back: an old policy drew it, and its probability must stay above 0.

    Args:
        hidden_ND: last hidden states.
        targets_N: int64 token ids.
        head: (n, D) -> logits (n, V).
        vocabulary: V.
        draw: how tokens are drawn.
    """
    rows = chunk_rows(vocabulary, hidden_ND.device)
    parts = []
    for start in range(0, len(targets_N), rows):
        chunk = (hidden_ND[start : start + rows], targets_N[start : start + rows])
        if torch.is_grad_enabled():
            parts.append(
                checkpoint(_chunk, *chunk, head, draw, use_reentrant=False)  # type: ignore[no-untyped-call]
            )
        else:
            parts.append(_chunk(*chunk, head, draw))
    if not parts:
        nothing = hidden_ND.sum() * 0.0 + hidden_ND.new_zeros(0, dtype=torch.float32)
        return Believed(nothing, nothing.detach(), nothing.detach())
    return Believed(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _chunk(
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    draw: Draw,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return of_logits(head(hidden_ND).float(), targets_N, draw)


def of_logits(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, draw: Draw
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three columns of :class:`Believed` from logits."""
    chosen_N1 = targets_N[:, None]
    with torch.no_grad():
        plain_N = _logprob(logits_NV, chosen_N1)
    scaled_NV = logits_NV / draw.temperature
    with torch.no_grad():
        all_NV = scaled_NV.log_softmax(-1)
        entropy_N = -(all_NV.exp() * all_NV).sum(-1)
    if cuts := draw.cuts():
        with torch.no_grad():
            out_NV = cuts(chosen_N1, scaled_NV.clone()) == -torch.inf  # type: ignore[arg-type]
            out_NV.scatter_(1, chosen_N1, False)
        scaled_NV = scaled_NV.masked_fill(out_NV, -torch.inf)
    return _logprob(scaled_NV, chosen_N1), plain_N, entropy_N


def _logprob(logits_NV: torch.Tensor, chosen_N1: torch.Tensor) -> torch.Tensor:
    return (logits_NV.gather(1, chosen_N1)[:, 0] - logits_NV.logsumexp(-1)).float()
