"""What a model must be told of samples with media that stand in one batch: where a token is, on all
axes that the architecture counts on, and which tokens see each other.

Nothing is counted here: the samples are laid in rows of their own, the architecture's own functions
say what they say of rows, and that is laid out as the batch is.

Axes: S samples, L positions of the longest, T positions of a pack, A axes of positions.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.chat.media.types import NAMES
from swift.data.batch import Batch
from swift.models.anatomy import text_config


def arranged(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Positions and masks of a batch with media, by the names of the model's arguments; what a
    model finds by itself is left out.
    """
    rows = _Rows(batch)
    found: dict[str, Any] = {}
    if not batch.packed:
        found["attention_mask"] = rows.real_SL.long()
    if (positions := _positions(model, batch, rows)) is not None:
        found["position_ids"] = positions
    if batch.packed and (masks := _masks(model, batch, rows)) is not None:
        found["attention_mask"] = masks
    return found


class _Rows:
    """The samples of a batch, each in a row, filled up on the right."""

    def __init__(self, batch: Batch) -> None:
        self.packed, self.bounds = batch.packed, batch.bounds
        place_L = torch.arange(batch.longest, device=batch.tokens.device)
        self.real_SL = place_L[None, :] < batch.starts_S.long().diff()[:, None]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """What a batch has for each of its positions, (1, T) or (S, L), as rows."""
        if not self.packed:
            return tensor
        rows_SL = tensor.new_zeros(self.real_SL.shape)
        rows_SL[self.real_SL] = tensor[0]
        return rows_SL

    def back(self, rows_ASL: torch.Tensor) -> torch.Tensor:
        """The other way: (A, 1, T) or (A, S, L)."""
        return rows_ASL[:, self.real_SL][:, None] if self.packed else rows_ASL

    def diagonal(self, mask_S1LL: torch.Tensor | None) -> torch.Tensor:
        """Masks of rows as one of the pack, (1, 1, T, T): no sample sees another. None means that
        a position sees those before it.
        """
        total, longest = self.bounds[-1], self.real_SL.shape[1]
        mask_11TT = torch.zeros(1, 1, total, total, dtype=torch.bool, device=self.real_SL.device)
        plain_LL = mask_11TT.new_ones(longest, longest).tril()
        for row, (start, stop) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            seen_LL = plain_LL if mask_S1LL is None else mask_S1LL[row, 0]
            mask_11TT[..., start:stop, start:stop] = seen_LL[: stop - start, : stop - start]
        return mask_11TT


def _find(model: nn.Module, name: str) -> Callable[..., Any] | None:
    """A method of the outermost module that has it."""
    return next((getattr(m, name) for m in model.modules() if hasattr(m, name)), None)


def _positions(model: PreTrainedModel, batch: Batch, rows: _Rows) -> torch.Tensor | None:
    """Positions on several axes, (A + 1, 1, T) or (A + 1, S, L): the first is the place in the
    sample, by which architectures tell packed samples apart. None: the model counts on one axis.
    """
    count = _find(model, "compute_3d_position_ids")
    if count is None:
        return None
    media = dict(batch.media)
    given = {
        **media,
        **{name: rows.of(media[name]) for name in NAMES if name in media},
        "input_ids": rows.of(batch.tokens),
        "attention_mask": rows.real_SL.long(),
    }
    if "feature_attention_mask" in media:
        given["audio_feature_lengths"] = media["feature_attention_mask"].sum(1)
    known = inspect.signature(count).parameters
    needed = [name for name, one in known.items() if one.default is one.empty]
    counted = count(**{
        **dict.fromkeys(needed),
        **{name: value for name, value in given.items() if name in known},
    })  # fmt: skip
    if counted is None:
        return None
    return torch.cat([batch.positions[None].to(counted), rows.back(counted)])


def _masks(model: PreTrainedModel, batch: Batch, rows: _Rows) -> Any:
    """What each position sees, where the architecture makes that depend on the types of tokens: a
    mask, or one for each kind of layer. None: it sees those before it.
    """
    make = getattr(model, "create_masks_for_generate", None)
    known = inspect.signature(make).parameters if make else {}
    types = {name: rows.of(batch.media[name]) for name in NAMES if name in batch.media}
    types = {name: value for name, value in types.items() if name in known}
    if make is None or not types:
        return None
    config = copy.copy(text_config(model))
    config._attn_implementation = "sdpa"  # masks of truth values
    embeddings_SL1 = torch.empty(*rows.real_SL.shape, 1, device=rows.real_SL.device)
    found = make(
        config=config,
        inputs_embeds=embeddings_SL1,
        attention_mask=rows.real_SL.long(),
        past_key_values=None,
        position_ids=None,
        **types,
    )
    if isinstance(found, dict):
        return {kind: rows.diagonal(mask) for kind, mask in found.items()}
    return rows.diagonal(found)
