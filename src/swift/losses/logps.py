"""Log-probabilities of given tokens over a large vocabulary, in chunks.

Axes: N learned tokens, D hidden size, V vocabulary, Q sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from swift.losses.cross_entropy import chunk_rows


@dataclass(frozen=True)
class Logps:
    """What a model says of given tokens."""

    logps_N: torch.Tensor  # float32: log softmax(logits)[target], with gradient
    hits_N: torch.Tensor  # float32: 1 where the target is the most likely token
    mean_logits_N: torch.Tensor  # float32: mean of the logits over the vocabulary


def token_logps(
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    learning: Sequence[torch.Tensor],
    vocabulary: int,
) -> Logps:
    """Log softmax(head(hidden))[target] of every row.

    Logits exist for a chunk of rows at a time and are not kept: the backward pass makes them again.

    Args:
        hidden_ND: last hidden states of the positions that predict.
        targets_N: int64 token ids.
        head: (n, D) -> logits (n, V); any differentiable function.
        learning: the parameters inside ``head`` that need gradients.
        vocabulary: V, which decides the size of a chunk.
    """
    rows = chunk_rows(vocabulary, hidden_ND.device)
    return Logps(*_Chunked.apply(hidden_ND, targets_N, head, rows, *learning))


def sequence_sums(values_N: torch.Tensor, sequence_N: torch.Tensor, count: int) -> torch.Tensor:
    """Values added up by sequence: float32 (Q,)."""
    return values_N.new_zeros(count).index_add(0, sequence_N, values_N)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        head: Callable[[torch.Tensor], torch.Tensor],
        rows: int,
        *learning: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logps_N = hidden_ND.new_zeros(len(targets_N), dtype=torch.float32)
        hits_N, means_N = torch.zeros_like(logps_N), torch.zeros_like(logps_N)
        for start in range(0, len(targets_N), rows):
            part = slice(start, start + rows)
            logits_NV = head(hidden_ND[part]).float()
            chosen_N = logits_NV.gather(1, targets_N[part, None])[:, 0]
            logps_N[part] = chosen_N - logits_NV.logsumexp(-1)
            hits_N[part] = (chosen_N == logits_NV.amax(-1)).float()
            means_N[part] = logits_NV.mean(-1)
        ctx.save_for_backward(hidden_ND, targets_N, *learning)
        ctx.head, ctx.rows = head, rows
        kind = hidden_ND.device.type
        ctx.mixed = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.mark_non_differentiable(hits_N, means_N)
        return logps_N, hits_N, means_N

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, targets_N, *learning = ctx.saved_tensors
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
        grads = [
            torch.zeros_like(x) if need else None
            for x, need in zip((hidden_ND, *learning), needs, strict=True)
        ]
        for start in range(0, len(targets_N), ctx.rows):
            part = slice(start, start + ctx.rows)
            hidden = hidden_ND[part].detach().requires_grad_(needs[0])
            with torch.enable_grad(), torch.autocast(*ctx.mixed):
                logits_NV = ctx.head(hidden)
            slope_NV = _slope(logits_NV.detach(), targets_N[part], slopes[0][part])
            wanted = [x for x, need in zip((hidden, *learning), needs, strict=True) if need]
            found = iter(torch.autograd.grad(logits_NV, wanted, slope_NV))
            if grads[0] is not None:
                grads[0][part] = next(found)
            for grad in grads[1:]:
                if grad is not None:
                    grad += next(found)
        return (grads[0], None, None, None, *grads[1:])


def _slope(logits_NV: torch.Tensor, targets_N: torch.Tensor, slope_N: torch.Tensor) -> torch.Tensor:
    """Slope * (one-hot - softmax): the derivative by the logits, in their number format."""
    shares_NV = logits_NV.float().softmax(-1).mul_(-slope_N[:, None])
    shares_NV.scatter_add_(1, targets_N[:, None], slope_N[:, None])
    return shares_NV.to(logits_NV.dtype)
