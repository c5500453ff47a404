"""Texts as vectors: what a model's body makes of their tokens. Axes: N texts, T tokens, D size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel

from swift.errors import ConfigError

Pooling = Literal["mean", "last", "first"]
_ROWS = 16  # texts in one pass
_FLAGS: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "first",
}
_WORDS: Mapping[str, Pooling] = {"mean": "mean", "lasttoken": "last", "cls": "first"}


def pooling_of(folder: Path) -> Pooling:
    """Which tokens' states make the vector, as sentence-transformers writes it beside a checkpoint.

    A checkpoint that says nothing is pooled at its last token, which alone has read all others.

    Raises:
        ConfigError: it says something else than mean, last or first token.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "last"
    said = json.loads(path.read_text("utf-8"))
    word = said.get("pooling_mode")
    if word is None:
        chosen = [name for name, on in said.items() if on is True and "pooling_mode_" in name]
        known = [_FLAGS[name] for name in chosen if name in _FLAGS]
    else:
        chosen, known = [word], [_WORDS[word]] if word in _WORDS else []
    if len(chosen) != 1 or not known:
        raise ConfigError(f"{path}: pooling by {', '.join(map(str, chosen)) or 'nothing'}")
    return known[0]


@torch.no_grad()
def embed(
    runs: Any, texts: Sequence[Sequence[int]], pad: int, more: Mapping[str, Any], pooling: Pooling
) -> list[list[float]]:
    """Vectors of unit length.

    Args:
        runs: the model in evaluation mode, or PEFT's wrapper of it.
        texts: tokens of each.
        pad: any id; padding is masked.
        more: further inputs, such as ``adapter_names`` of all texts.
        pooling: of which tokens.

    Raises:
        ConfigError: the model has no body apart from its head.
    """
    plain: Any = runs.get_base_model() if isinstance(runs, PeftModel) else runs
    if plain.base_model is plain:
        raise ConfigError(f"embeddings: {type(plain).__name__} has no body apart from its head")
    extra: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in signature(plain.forward).parameters:
        extra["logits_to_keep"] = 1  # nobody reads them
    states: list[torch.Tensor] = []
    hook = plain.base_model.register_forward_hook(lambda *call: states.append(call[-1][0]))
    found: list[list[float]] = []
    try:
        for start in range(0, len(texts), _ROWS):
            part = slice(start, start + _ROWS)
            ids, mask = _padded(texts[part], pad, plain.device)
            rows = {name: value[part] for name, value in more.items()}
            runs(input_ids=ids, attention_mask=mask, **extra, **rows)
            found += _pooled(states.pop().float(), mask, pooling).tolist()
    finally:
        hook.remove()
    return found


def _padded(
    texts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (N, T), padded behind: so tokens have the places that they have alone."""
    longest = max(map(len, texts))
    ids = [[*text] + [pad] * (longest - len(text)) for text in texts]
    mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _pooled(states_NTD: torch.Tensor, mask_NT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    lengths_N = mask_NT.sum(1)
    if pooling == "mean":
        vectors_ND = (states_NTD * mask_NT[:, :, None]).sum(1) / lengths_N[:, None]
    else:
        at_N = lengths_N - 1 if pooling == "last" else torch.zeros_like(lengths_N)
        vectors_ND = states_NTD[torch.arange(len(at_N), device=at_N.device), at_N]
    return torch.nn.functional.normalize(vectors_ND, dim=-1)
