"""Attention that keeps the borders between packed samples, on any device, without padding.

Registered with transformers as the implementation ``packed``. On a GPU it is torch's own
variable-length flash attention; elsewhere every sample is attended for itself, so that a pack costs
what its samples cost: the sum of their squared lengths, not the square of the sum.

Axes: B rows (1), H heads, T positions, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from swift.data.batch import Batch
from swift.errors import ConfigError
from swift.models.anatomy import body, influence, text_config, vocabulary
from swift.models.load import is_out_of_memory

PACKED = "packed"
_PROVING = "packed-proving"  # the same, used by keeps_borders


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
    ``parents``: the segment that each goes on from, and sees the whole of; -1: none.
    ``softcap`` bounds the scores; ``s_aux`` (H) are the scores of sinks. Raises
    NotImplementedError for attention with a cache or a mask of its own.
    """
    if attention_mask is not None or query_BHTD.shape[2] != key_BHTD.shape[2]:
        raise NotImplementedError("packed attention knows neither masks nor a cache")
    plain = softcap is None and s_aux is None
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
    bounds = [0, query_BHTD.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    spans = list(pairwise(bounds))
    parts = []
    for number, (start, stop) in enumerate(spans):
        query, key, value = (x[:, :, start:stop] for x in (query_BHTD, key_BHTD, value_BHTD))
        before = 0
        if parents and parents[number] >= 0:
            first, last = spans[parents[number]]
            before = last - first
            key = torch.cat([key_BHTD[:, :, first:last], key], dim=2)
            value = torch.cat([value_BHTD[:, :, first:last], value], dim=2)
        if plain:
            length = before + stop - start
            inside = not before and (sliding_window is None or length <= sliding_window)
            mask = None if inside else _seen(length, sliding_window, query.device)[before:]
            part = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        else:
            part = _explicit(query, key, value, scaling, dropout, sliding_window, softcap, s_aux)
        parts.append(part)
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


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
    window: int | None,
    cap: float | None,
    sinks_H: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of one segment, step by step, with what no fused kernel does: a soft cap on the
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
    scores = scores.masked_fill(~_seen(length, window, scores.device)[-count:], float("-inf"))
    if sinks_H is not None:
        sinks = sinks_H.float().view(1, -1, 1, 1).expand(len(scores), -1, count, -1)
        scores = torch.cat([scores, sinks], dim=-1)
    shares = scores.softmax(-1)[..., :length].to(value.dtype)
    return F.dropout(shares, dropout) @ value


def _proving_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """:func:`packed_attention` where the architecture tells it all that a mask would tell others.

    The samples of the proof are shorter than any window, so that a window which only a mask knows
    of would else be lost without a trace.
    """
    window = None
    if attention_mask is not None and attention_mask.dtype == torch.int64:
        window, attention_mask = int(attention_mask), None
    if window != sliding_window:
        raise NotImplementedError("packed attention is not told of the window")
    return packed_attention(
        module, query_BHTD, key_BHTD, value_BHTD, attention_mask,
        sliding_window=sliding_window, **other,
    )  # fmt: skip


def _proving_mask(
    local_size: int | None = None, use_vmap: bool = False, **other: Any
) -> torch.Tensor | None:
    """In place of a mask: the size of the window that it would have, if any."""
    if use_vmap:
        raise NotImplementedError("packed attention does not know masks of an architecture's own")
    return None if local_size is None else torch.full((1, 1, 1, 1), local_size, device="cpu")


AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(_PROVING, _proving_attention)
AttentionMaskInterface.register(_PROVING, _proving_mask)


def run_body(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Hidden states of a batch, (1, T, D) or (B, L, D).

    Where padded rows hold media, the architecture knows best how it counts positions.
    """
    borders: dict[str, Any] = {}
    if batch.packed:
        borders = {
            "cu_seq_lens_q": batch.starts_S,
            "cu_seq_lens_k": batch.starts_S,
            "max_length_q": batch.longest,
            "max_length_k": batch.longest,
        }
    if batch.parents:
        borders["parents"] = batch.parents
    out = body(model)(
        input_ids=batch.tokens,
        position_ids=batch.positions if batch.packed or not batch.media else None,
        use_cache=False,
        **batch.media,
        **borders,
    )
    hidden = out.last_hidden_state
    assert isinstance(hidden, torch.Tensor)
    return hidden


@dataclass(frozen=True)
class Layout:
    """How batches are laid out for a model."""

    attention: str  # the implementation chosen
    packed: bool  # samples end to end; else padded rows


def choose_layout(model: PreTrainedModel, wanted: str = "auto") -> Layout:
    """Find the fastest attention under which packed samples do not see each other.

    The proof is a forward pass: a sample must come out of a pack as it does alone, and unchanged
    when its neighbour changes. An architecture that fails with every implementation (one that
    carries a state along the sequence, say) gets padded rows.

    Args:
        model: on its device; its attention implementation is set.
        wanted: ``auto``, ``packed``, ``sdpa``, ``eager`` or ``flash``.

    Raises:
        ConfigError: the implementation asked for cannot be had.
    """
    flash = ["flash_attention_2"] if is_flash_attn_2_available() else []
    candidates = {
        "auto": [PACKED, "sdpa", "eager"],
        "flash": [*flash, PACKED],
    }.get(wanted, [wanted])
    native = attention_of(model)
    for name in candidates:
        if _usable(model, name) and keeps_borders(model, native):
            return Layout(name, packed=True)
    for name in [native] if wanted == "auto" else candidates:
        if name != PACKED and _usable(model, name):
            return Layout(name, packed=False)
    raise ConfigError(f"--attn_impl {wanted}: {type(model).__name__} cannot run with it")


def shares(model: PreTrainedModel, layout: Layout) -> bool:
    """Whether a text may be read as branches of one trunk: each comes out as it does in a pack."""
    if layout.attention != PACKED:
        return False
    training = model.training
    model.eval()
    random = torch.Generator().manual_seed(0)
    count = min(vocabulary(model), 1000)
    trunk, *branches = (
        torch.randint(0, count, (length,), generator=random) for length in (7, 5, 3)
    )
    device = next(model.parameters()).device
    plain = _lay([torch.cat([trunk, branch]) for branch in branches], device)
    tree = _lay([trunk, *branches], device)
    positions = torch.cat([torch.arange(n) + at for n, at in ((7, 0), (5, 7), (3, 7))])[None]
    tree = replace(tree, positions=positions.to(device), parents=(-1, 0, 0))
    try:
        with torch.no_grad():
            apart, together = (run_body(model, batch)[0].float() for batch in (plain, tree))
    except (TypeError, NotImplementedError):
        return False
    finally:
        model.train(training)
    apart = torch.cat([apart[7:12], apart[19:]])
    exact = next(model.parameters()).dtype == torch.float32
    bound = (1e-4 if exact else 5e-2) * apart.norm()
    return bool((together[7:] - apart).norm() < bound)


def attention_of(model: PreTrainedModel) -> str:
    """The attention of the part that writes text."""
    return str(text_config(model)._attn_implementation)


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Choose the attention of the part that writes text; towers that read media keep theirs.

    Raises:
        ValueError, ImportError: this model cannot have it.
    """
    text = text_config(model)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            for key in module.config.sub_configs:
                if getattr(module.config, key, None) is text:
                    module.set_attn_implementation({key: name})
                    return
    model.set_attn_implementation(name)


def _usable(model: PreTrainedModel, name: str) -> bool:
    try:
        set_attention(model, name)
    except (ValueError, ImportError):
        return False
    return attention_of(model) == name


def keeps_borders(model: PreTrainedModel, native: str) -> bool:
    """Whether two packed samples come out as they do alone, under the current attention.

    Three proofs: the second sample comes out as it does alone (within rounding, which is coarse in
    bfloat16); it does not change with the tokens of the first; and its derivative by the embeddings
    of the first is zero to the last bit, in any number format.

    Args:
        model: set to the attention in question.
        native: the attention that computes a sample alone.
    """
    training, current = model.training, attention_of(model)
    model.eval()
    if current == PACKED:
        set_attention(model, _PROVING)
    random = torch.Generator().manual_seed(0)
    count = min(vocabulary(model), 1000)
    first, other, second = (
        torch.randint(0, count, (length,), generator=random) for length in (7, 7, 9)
    )
    try:
        together, slope = _second(model, [first, second])
        changed, _ = _second(model, [other, second])
        set_attention(model, native)
        alone, _ = _second(model, [second])
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return False
    finally:
        set_attention(model, current)
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32
    bound = (1e-4 if exact else 5e-2) * alone.norm()
    near = (together - alone).norm() < bound and (together - changed).norm() < bound
    return bool(near) and not slope[: len(first)].any()


def _second(
    model: PreTrainedModel, samples: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the last sample, and their derivative by all embeddings."""
    batch = _lay(samples, next(model.parameters()).device, packed=len(samples) > 1)
    last = slice(-len(samples[-1]), None)
    hidden, slope = influence(model, lambda: run_body(model, batch)[0], last)
    return hidden.float(), slope


def _lay(samples: list[torch.Tensor], device: torch.device, packed: bool = True) -> Batch:
    tokens = torch.cat(samples)
    bounds = [0]
    for sample in samples:
        bounds.append(bounds[-1] + len(sample))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens=tokens[None],
        positions=torch.cat([torch.arange(len(sample)) for sample in samples])[None],
        learned_N=nothing,
        targets_N=nothing,
        weights_N=torch.zeros(0),
        starts_S=torch.tensor(bounds, dtype=torch.int32),
        bounds=tuple(bounds),
        weight=0.0,
        count=len(tokens),
        packed=packed,
        places=(),
    ).to(device)
