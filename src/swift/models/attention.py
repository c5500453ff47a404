"""Attention that keeps the borders between packed samples, on any device, without padding.

Registered with transformers as the implementation ``packed``. On a GPU it is torch's own
variable-length flash attention; elsewhere every sample is attended for itself, so that a pack costs
what its samples cost: the sum of their squared lengths, not the square of the sum.

Axes: B rows (1), H heads, T positions, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from swift.data.batch import Batch
from swift.errors import ConfigError
from swift.models.anatomy import body, vocabulary

PACKED = "packed"


def packed_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sample of a pack, with transformers' attention signature.

    ``cu_seq_lens_q``, int32 (S + 1), is the first position of every sample and the end of the
    last; ``max_length_q`` the positions of the longest. Raises NotImplementedError for attention
    with soft caps or sinks.
    """
    if other.get("softcap") is not None or other.get("s_aux") is not None:
        raise NotImplementedError("packed attention knows neither soft caps nor sinks")
    assert cu_seq_lens_q is not None and max_length_q is not None and query_BHTD.shape[0] == 1
    half = query_BHTD.dtype in (torch.bfloat16, torch.float16)
    if query_BHTD.is_cuda and half and dropout == 0.0:
        query, key, value = (x[0].transpose(0, 1) for x in (query_BHTD, key_BHTD, value_BHTD))
        out_THD = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(sliding_window - 1 if sliding_window else -1, 0),
            enable_gqa=query.shape[1] != key.shape[1], num_splits=1,
        )  # fmt: skip
        assert isinstance(out_THD, torch.Tensor)
        return out_THD[None], None
    bounds = cu_seq_lens_q.tolist()
    parts = []
    for start, stop in pairwise(bounds):
        query, key, value = (x[:, :, start:stop] for x in (query_BHTD, key_BHTD, value_BHTD))
        mask = _window(stop - start, sliding_window, query_BHTD.device)
        parts.append(
            F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """A mask for a sample longer than the sliding window; None: plain causal attention."""
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(PACKED, packed_attention)


def run_body(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Hidden states of a batch, (1, T, D) or (B, L, D)."""
    borders: dict[str, Any] = {}
    if batch.packed:
        borders = {
            "cu_seq_lens_q": batch.starts_S,
            "cu_seq_lens_k": batch.starts_S,
            "max_length_q": batch.longest,
            "max_length_k": batch.longest,
        }
    out = body(model)(
        input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, **borders
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
    native = model.config._attn_implementation
    for name in candidates:
        if _usable(model, name) and keeps_borders(model, native):
            return Layout(name, packed=True)
    for name in [native] if wanted == "auto" else candidates:
        if name != PACKED and _usable(model, name):
            return Layout(name, packed=False)
    raise ConfigError(f"--attn_impl {wanted}: {type(model).__name__} cannot run with it")


def _usable(model: PreTrainedModel, name: str) -> bool:
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError):
        return False
    return bool(model.config._attn_implementation == name)


@torch.no_grad()
def keeps_borders(model: PreTrainedModel, native: str) -> bool:
    """Whether two packed samples come out as they do alone, under the current attention.

    Args:
        model: set to the attention in question.
        native: the attention that computes a sample alone.
    """
    training, current = model.training, model.config._attn_implementation
    model.eval()
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)
    count = min(vocabulary(model), 1000)
    first, other, second = (
        torch.randint(0, count, (length,), generator=random) for length in (7, 7, 9)
    )
    try:
        together = run_body(model, _lay([first, second], device))[0, 7:].float()
        changed = run_body(model, _lay([other, second], device))[0, 7:].float()
        model.set_attn_implementation(native)
        alone = run_body(model, _lay([second], device, packed=False))[0].float()
    except (NotImplementedError, TypeError):
        return False
    finally:
        model.set_attn_implementation(current)
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32
    bound = (1e-4 if exact else 5e-2) * alone.norm()
    return bool((together - alone).norm() < bound and (together - changed).norm() < bound)


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
