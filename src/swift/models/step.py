"""Attention of one new token on a CPU, in half precision.

PyTorch's kernel for CPUs is made for many queries: for one it takes 2 to 20 times as long as the
plain formula in float32, which is no less exact (measure: bench/linear.py --attention).

Axes: B rows, H heads, G heads of keys and values, N = H / G, L keys, D head size.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from swift.models.attention import attention_of, set_attention

STEP = "step"
_AT_ONCE = 1 << 19  # keys' elements in float32 that stay near the processor


def step_attention(
    module: torch.nn.Module,
    query_BH1D: torch.Tensor,
    key_BGLD: torch.Tensor,
    value_BGLD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: ``sdpa`` but for one token in half precision on a CPU.

    Returns:
        (B, 1, H, D), and no weights.
    """
    if not _is_step(query_BH1D, attention_mask, other):
        return sdpa_attention_forward(
            module, query_BH1D, key_BGLD, value_BGLD, attention_mask, scaling=scaling, **other
        )
    rows, heads, _, size = query_BH1D.shape
    groups, length = key_BGLD.shape[1:3]
    scale = size**-0.5 if scaling is None else scaling
    query_BGND = query_BH1D.float().mul_(scale).view(rows, groups, heads // groups, size)
    together = max(1, _AT_ONCE // (groups * length * size))
    parts = []
    for start in range(0, rows, together):
        some = slice(start, start + together)
        mask = attention_mask
        if mask is not None and len(mask) == rows:
            mask = mask[some]
        parts.append(_formula(query_BGND[some], key_BGLD[some], value_BGLD[some], mask))
    found_BGND = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found_BGND.to(query_BH1D.dtype).reshape(rows, 1, heads, -1), None


def _is_step(query: torch.Tensor, mask: torch.Tensor | None, other: dict[str, Any]) -> bool:
    """Whether there is one token, and nothing that only ``sdpa`` knows or refuses."""
    return (
        query.shape[2] == 1
        and query.device.type == "cpu"
        and query.dtype in (torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and (mask is None or mask.shape[1:3] == (1, 1))
        and not any(other.get(name) for name in ("dropout", "softcap", "output_attentions"))
        and all(other.get(name) is None for name in ("position_bias", "cache", "s_aux"))
    )


def _formula(
    query_BGND: torch.Tensor,
    key_BGLD: torch.Tensor,
    value_BGLD: torch.Tensor,
    mask_B11L: torch.Tensor | None,
) -> torch.Tensor:
    scores_BGNL = query_BGND @ key_BGLD.float().transpose(2, 3)
    if mask_B11L is not None and mask_B11L.dtype == torch.bool:
        scores_BGNL.masked_fill_(~mask_B11L, torch.finfo(torch.float32).min)
    elif mask_B11L is not None:
        scores_BGNL += mask_B11L
    return scores_BGNL.softmax(-1) @ value_BGLD.float()


AttentionInterface.register(STEP, step_attention)
AttentionMaskInterface.register(STEP, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def use_steps(model: PreTrainedModel) -> bool:
    """Have a model that answers on a CPU in half precision use it in place of ``sdpa``.

    Returns:
        Whether it does.
    """
    if (
        model.device.type != "cpu"
        or model.dtype not in (torch.bfloat16, torch.float16)
        or attention_of(model) != "sdpa"
    ):
        return False
    with suppress(ValueError, ImportError):  # an architecture with a way of its own
        set_attention(model, STEP)
    return attention_of(model) == STEP
