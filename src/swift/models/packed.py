"""Attention that keeps the borders between packed samples, on any device, without padding.

Registered with transformers as the implementation ``packed`` (see attention.py). On a GPU it is
torch's own variable-length flash attention. Elsewhere, and where texts branch, long segments are
attended for one by one and short ones in blocks of similar length, so that a pack costs what its
samples cost: the sum of their squared lengths, not the square of the sum.

Axes: B rows (1), H heads, T positions, D head size; in a block S segments, L positions, K keys.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn

_SHORT = 128  # positions; of a shorter segment the call costs more than what it computes

Span = tuple[int, int]


def packed_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    parents: tuple[int, ...] = (),
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment of a pack, with transformers' attention signature.

    ``cu_seq_lens_q``, int32 (S + 1), is the first position of every segment and the end of the
    last; ``max_length_q`` the positions of the longest. Without them every row is one segment.
    ``parents``: the segment that each goes on from, and sees the whole of; -1: none. ``softcap``
    bounds the scores; ``s_aux`` (H) are the scores of sinks; ``attention_mask``, bool (1, 1, T, T),
    is what is seen within segments where that is not what came before. Raises NotImplementedError
    for attention with a cache, or a mask of another form.
    """
    if query_BHTD.shape[2] != key_BHTD.shape[2] or not _is_own(attention_mask, query_BHTD):
        raise NotImplementedError("packed attention knows no mask of this form, and no cache")
    plain = softcap is None and s_aux is None and attention_mask is None
    half = query_BHTD.dtype in (torch.bfloat16, torch.float16)
    fused = query_BHTD.is_cuda and half and plain and dropout == 0.0 and not parents
    if fused and cu_seq_lens_q is not None:
        assert max_length_q is not None and query_BHTD.shape[0] == 1
        query, key, value = (x[0].transpose(0, 1) for x in (query_BHTD, key_BHTD, value_BHTD))
        out_THD = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(sliding_window - 1 if sliding_window else -1, 0),
            enable_gqa=query.shape[1] != key.shape[1], num_splits=1,
        )  # fmt: skip
        assert isinstance(out_THD, torch.Tensor)
        return out_THD[None], None
    attend = partial(_attend, scaling, dropout, softcap, s_aux)
    if cu_seq_lens_q is None:
        mask, length = attention_mask, query_BHTD.shape[2]
        if mask is None and sliding_window is not None and length > sliding_window:
            mask = _seen(length, sliding_window, query_BHTD.device)
        return attend(query_BHTD, key_BHTD, value_BHTD, mask).transpose(1, 2).contiguous(), None
    blocks, order_T = _blocks(
        tuple(cu_seq_lens_q.tolist()), parents, sliding_window, attention_mask is None,
        query_BHTD.device,
    )  # fmt: skip
    columns = [x[0].transpose(0, 1) for x in (query_BHTD, key_BHTD, value_BHTD)]
    parts = []
    for block in blocks:
        places = (block.own, block.seen, block.seen)
        query, key, value = (
            _take(x, at).transpose(1, 2) for x, at in zip(columns, places, strict=True)
        )
        mask = _mask(block, attention_mask, sliding_window, query.device)
        parts.append(attend(query, key, value, mask).transpose(1, 2).flatten(0, 1))
    out_THD = torch.cat(parts)
    return (out_THD if order_T is None else out_THD.index_select(0, order_T))[None], None


def _is_own(mask: torch.Tensor | None, query_BHTD: torch.Tensor) -> bool:
    """Whether a mask, if any, is one of truth values for all positions of a pack."""
    total = query_BHTD.shape[2]
    return mask is None or (mask.dtype == torch.bool and mask.shape == (1, 1, total, total))


@dataclass(frozen=True)
class _Block:
    """Segments that are attended for in one call: places of their positions and of their keys.

    A block of one segment has spans. Any other has indices, (S, L) and (S, K), which are filled up
    by repetition, and ``mask``, bool (S, 1, L, K): what is seen.
    """

    own: torch.Tensor | tuple[Span, ...]
    seen: torch.Tensor | tuple[Span, ...]
    mask: torch.Tensor | None = None


@lru_cache(maxsize=4)  # the layers of a model ask for the same, those with a window for another
def _blocks(
    bounds: tuple[int, ...],
    parents: tuple[int, ...],
    window: int | None,
    gather: bool,
    device: torch.device,
) -> tuple[list[_Block], torch.Tensor | None]:
    """The blocks of a pack, and where each position's row is in their outputs end to end.

    Args:
        bounds: of the segments.
        parents: of the segments; empty: there are none.
        window: how far is seen.
        gather: whether short segments may share a block.
        device: of the indices.

    Returns:
        None for the places where the outputs are in the order of positions.
    """
    spans = list(pairwise(bounds))
    trunks = [spans[p] if p >= 0 else (0, 0) for p in parents] or [(0, 0)] * len(spans)
    alike: dict[Any, list[int]] = defaultdict(list)
    for number, (own, trunk) in enumerate(zip(spans, trunks, strict=True)):
        length, before = own[1] - own[0], trunk[1] - trunk[0]
        short = gather and length <= _SHORT
        alike[(_size(length), before and _size(before)) if short else number].append(number)
    blocks, places = [], []
    at = 0
    for members in alike.values():
        chosen = [(trunks[i], spans[i]) for i in members]
        longest = max(stop - start for _, (start, stop) in chosen)
        blocks.append(_block(chosen, window, device))
        for i in members:
            places.append((spans[i], at))
            at += longest
    if len(blocks) == len(spans):
        return blocks, None
    order_T = torch.cat([torch.arange(b - a) + first for (a, b), first in sorted(places)])
    return blocks, order_T.to(device)


def _size(length: int) -> int:
    """Lengths of one size share a block: up to 16, then up to each power of two."""
    return max(length - 1, 15).bit_length()


def _block(chosen: list[tuple[Span, Span]], window: int | None, device: torch.device) -> _Block:
    """The block of some segments, each given as (span of its trunk, its own)."""
    if len(chosen) == 1:
        [(trunk, own)] = chosen
        return _Block((own,), (trunk, own) if trunk[1] > trunk[0] else (own,))
    trunk_S, own_S = (torch.tensor(part) for part in zip(*chosen, strict=True))
    trunk_SP, own_SL = _filled(trunk_S), _filled(own_S)
    before_S = trunk_S[:, 1] - trunk_S[:, 0]
    place_P, place_L = torch.arange(trunk_SP.shape[1]), torch.arange(own_SL.shape[1])
    # places in the text: of what asks, and of what is seen, with the filling behind everything
    asks_SL = before_S[:, None] + place_L
    known_SP = torch.where(place_P < before_S[:, None], place_P, 1 << 40)
    distance_SLK = asks_SL[:, :, None] - torch.cat([known_SP, asks_SL], 1)[:, None]
    mask = (distance_SLK >= 0) & (distance_SLK < (window or 1 << 40))
    keys_SK = torch.cat([trunk_SP, own_SL], 1)
    return _Block(own_SL.to(device), keys_SK.to(device), mask[:, None].to(device))


def _filled(span_S: torch.Tensor) -> torch.Tensor:
    """The positions of spans, each filled up with its last one."""
    length_S = span_S[:, 1] - span_S[:, 0]
    place = torch.arange(int(length_S.max()))
    return span_S[:, :1] + torch.minimum(place, (length_S[:, None] - 1).clamp(min=0))


def _take(x_THD: torch.Tensor, at: torch.Tensor | tuple[Span, ...]) -> torch.Tensor:
    """The rows of some places, (S, L, H, D)."""
    if isinstance(at, torch.Tensor):
        return x_THD.index_select(0, at.flatten()).unflatten(0, at.shape)
    parts = [x_THD[start:stop] for start, stop in at]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def _attend(
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks_H: torch.Tensor | None,
    query_SHLD: torch.Tensor,
    key_SHKD: torch.Tensor,
    value_SHKD: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of the segments of a block, (S, H, L, D)."""
    if softcap is not None or sinks_H is not None:
        given = (query_SHLD, key_SHKD, value_SHKD, scaling, dropout, mask, softcap, sinks_H)
        return _explicit(*given)
    return F.scaled_dot_product_attention(
        query_SHLD,
        key_SHKD,
        value_SHKD,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query_SHLD.shape[1] != key_SHKD.shape[1],
    )


def _mask(
    block: _Block, whole: torch.Tensor | None, window: int | None, device: torch.device
) -> torch.Tensor | None:
    """What is seen in a block; None: all that comes before."""
    if isinstance(block.own, torch.Tensor) or isinstance(block.seen, torch.Tensor):
        return block.mask
    [(start, stop)] = block.own
    if whole is not None:
        return whole[:, :, start:stop, start:stop]
    total = sum(stop - start for start, stop in block.seen)
    inside = len(block.seen) == 1 and (window is None or total <= window)
    return None if inside else _seen(total, window, device)[start - stop :]


def _seen(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which positions (columns) a position (row) of a text sees."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < (window or length))


def _explicit(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    scaling: float | None,
    dropout: float,
    mask: torch.Tensor | None,
    cap: float | None,
    sinks_H: torch.Tensor | None,
) -> torch.Tensor:
    """Attention, step by step, with what no fused kernel does: a soft cap on the
    scores (arXiv:2408.00118, section 2), or a sink in each head that takes a share of its attention
    (arXiv:2508.10925, section 2).
    """
    length, repeats = key_BHTD.shape[2], query_BHTD.shape[1] // key_BHTD.shape[1]
    count = query_BHTD.shape[2]  # the last of them
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key_BHTD, value_BHTD))
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query_BHTD @ key.transpose(2, 3) * scale).float()
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is None:
        mask = _seen(length, None, scores.device)
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks_H is not None:
        sinks = sinks_H.float().view(1, -1, 1, 1).expand(len(scores), -1, count, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    shares = scores.softmax(-1)[..., :length].to(value.dtype)
    return F.dropout(shares, dropout) @ value
