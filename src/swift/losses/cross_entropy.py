"""Cross-entropy over a large vocabulary, in chunks: all logits never exist at once.

Axes: N learned positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from swift.losses.loss import Loss

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits that exist at a time: 16 MiB in float32, within a CPU's cache; 256 MiB on a GPU."""


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Positions whose logits exist at a time: a multiple of 64, which suits every kernel."""
    return max(64, CHUNK_ELEMENTS.get(device.type, 1 << 22) // vocabulary // 64 * 64)


def cross_entropy(
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    learning: Sequence[torch.Tensor],
    vocabulary: int,
) -> Loss:
    """Sum over positions of weight * -log softmax(head(hidden))[target].

    Each chunk's gradient is computed with its loss, while its logits are there, so nothing of size
    N x V is kept or computed twice.

    Args:
        hidden_ND: last hidden states of learned positions.
        targets_N: int64 token ids.
        weights_N: float32, above 0.
        head: (n, D) -> logits (n, V); any differentiable function, such as a head with an adapter.
        learning: the parameters inside ``head`` that need gradients.
        vocabulary: V, which decides the size of a chunk.

    Returns:
        ``total`` (nats), and in ``sums`` ``token_accuracy``: the weight of the positions whose
        most likely token is the target.
    """

    def judge(logits_NV: torch.Tensor, part: slice, slope: bool) -> Judged:
        return _softmax_loss(logits_NV, targets_N[part], weights_N[part], slope=slope)

    rows = chunk_rows(vocabulary, hidden_ND.device)
    total, (right,) = in_chunks(hidden_ND, head, learning, rows, judge)
    return Loss(total, {"token_accuracy": right})


Judged = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Of a chunk: the summed loss, further sums (M,), and the derivative of the loss by the logits."""


def in_chunks(
    hidden_ND: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    learning: Sequence[torch.Tensor],
    rows: int,
    judge: Callable[[torch.Tensor, slice, bool], Judged],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss of logits of which only a chunk exists at a time; its gradient is made with it.

    Args:
        hidden_ND: what the head reads.
        head: (n, D) -> logits (n, V).
        learning: the parameters inside ``head`` that need gradients.
        rows: of a chunk.
        judge: (logits, which rows they are of, whether a slope is wanted) -> see :data:`Judged`.
            It may work in place.

    Returns:
        The sum of the losses, with gradient, and of the further sums (M,), without.
    """
    total, others_M = _Chunked.apply(hidden_ND, head, rows, judge, *learning)
    return total, others_M


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        head: Callable[[torch.Tensor], torch.Tensor],
        rows: int,
        judge: Callable[[torch.Tensor, slice, bool], Judged],
        *learning: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        others_M = total
        grads: list[torch.Tensor | None] = [
            torch.zeros_like(x) if need else None
            for x, need in zip((hidden_ND, *learning), needs, strict=True)
        ]
        for start in range(0, max(1, len(hidden_ND)), rows):
            part = slice(start, start + rows)
            hidden = hidden_ND[part].detach().requires_grad_(needs[0])
            with torch.set_grad_enabled(any(needs)):
                logits_NV = head(hidden)
            loss, found_M, slope_NV = judge(logits_NV, part, any(needs))
            total = total + loss
            others_M = others_M + found_M
            if slope_NV is None:
                continue
            wanted = [x for x, need in zip((hidden, *learning), needs, strict=True) if need]
            found = iter(torch.autograd.grad(logits_NV, wanted, slope_NV.to(logits_NV.dtype)))
            if needs[0]:
                grads[0][part] = next(found)  # type: ignore[index]
            for grad in grads[1:]:
                if grad is not None:
                    grad += next(found)
        ctx.grads = grads
        ctx.mark_non_differentiable(others_M)
        return total, others_M

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if grad is None else grad.mul_(slopes[0]) for grad in ctx.grads]
        ctx.grads = None
        return (scaled[0], None, None, None, *scaled[1:])


def _softmax_loss(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, weights_N: torch.Tensor, *, slope: bool
) -> Judged:
    """Weighted loss and hits of a chunk, and the derivative of the loss by the logits.

    Works in place: a chunk is the largest tensor of a step. Autograd would notice a head that still
    needs its logits. A target that shares the first place counts as a hit.
    """
    work_NV = logits_NV if logits_NV.dtype == torch.float32 else logits_NV.float()
    rows_N1 = targets_N[:, None]
    work_NV.sub_(work_NV.amax(-1, keepdim=True))
    chosen_N = work_NV.gather(1, rows_N1)[:, 0]
    sums_N = work_NV.exp_().sum(-1)
    loss = ((sums_N.log() - chosen_N) * weights_N).sum()
    hits_M = ((chosen_N == 0) * weights_N).sum()[None]
    if not slope:
        return loss, hits_M, None
    work_NV.mul_((weights_N / sums_N)[:, None])  # weight * (softmax - one-hot)
    work_NV.scatter_add_(1, rows_N1, -weights_N[:, None])
    return loss, hits_M, work_NV.detach()
