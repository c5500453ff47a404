"""Log-probabilities of tokens under the very distribution that they were drawn from.

Temperature, top-k, top-p and min-p are part of the policy: what an engine draws from is what the
trainer computes with. Axes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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
    learning: Sequence[torch.Tensor],
    vocabulary: int,
    draw: Draw,
) -> Believed:
    """Log-probabilities of tokens, chunk by chunk: logits of N x V never exist at once.

    The backward pass makes the logits of each chunk again. A token that the cuts would leave out is
    put back: an old policy drew it, and its probability must stay above 0.

    Args:
        hidden_ND: last hidden states.
        targets_N: int64 token ids.
        head: (n, D) -> logits (n, V).
        learning: the parameters inside ``head`` that need gradients.
        vocabulary: V.
        draw: how tokens are drawn.
    """
    rows = chunk_rows(vocabulary, hidden_ND.device)
    parts = [
        _Chunk.apply(hidden_ND[at : at + rows], targets_N[at : at + rows], head, draw, *learning)
        for at in range(0, max(len(targets_N), 1), rows)
    ]
    return Believed(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


class _Chunk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        targets_N: torch.Tensor,
        head: Callable[[torch.Tensor], torch.Tensor],
        draw: Draw,
        *learning: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits_NV = head(hidden_ND).float()
        ctx.save_for_backward(hidden_ND, targets_N, *learning)
        ctx.head, ctx.draw = head, draw
        kind = hidden_ND.device.type
        ctx.mixed = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        plain_N, entropy_N = _logprob(logits_NV, targets_N), _entropy(logits_NV, draw)
        ctx.mark_non_differentiable(plain_N, entropy_N)
        return drawn_logprob(logits_NV, targets_N, draw), plain_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, targets_N, *learning = ctx.saved_tensors
        hidden_ND = hidden_ND.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad(), torch.autocast(*ctx.mixed):
            logits_NV = ctx.head(hidden_ND).float()
            drawn_N = drawn_logprob(logits_NV, targets_N, ctx.draw)
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]]
        pairs = zip((hidden_ND, *learning), needs, strict=True)
        wanted = [tensor for tensor, need in pairs if need]
        found = iter(torch.autograd.grad(drawn_N, wanted, slopes[0]) if wanted else ())
        grads = [next(found) if need else None for need in needs]
        return (grads[0], None, None, None, *grads[1:])


def drawn_logprob(logits_NV: torch.Tensor, targets_N: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Log-probabilities of tokens under the draw, (N,)."""
    scaled_NV = logits_NV / draw.temperature
    if cuts := draw.cuts():
        chosen_N1 = targets_N[:, None]
        with torch.no_grad():
            out_NV = cuts(chosen_N1, scaled_NV.clone()) == -torch.inf  # type: ignore[arg-type]
            out_NV.scatter_(1, chosen_N1, False)
        scaled_NV = scaled_NV.masked_fill(out_NV, -torch.inf)
    return _logprob(scaled_NV, targets_N)


def _logprob(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return logits_NV.gather(1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def _entropy(logits_NV: torch.Tensor, draw: Draw) -> torch.Tensor:
    log_NV = (logits_NV / draw.temperature).log_softmax(-1)
    return -(log_NV.exp() * log_NV).sum(-1)
