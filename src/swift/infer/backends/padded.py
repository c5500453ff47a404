"""Batches through transformers' own ``generate``: every architecture, each with its own cache.

Transformers runs the model; which token follows and when an answer ends is decided per row by
:mod:`swift.infer.choose`, through its hooks for logits and for stopping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from swift.infer.choose import Row, advance


def generate_padded(
    model: PreTrainedModel, rows: Sequence[Row], pad: int, more: Mapping[str, Any]
) -> None:
    """Generate until every row has ended.

    Args:
        model: in evaluation mode, with an attention that knows padding; or PEFT's wrapper of it.
        rows: at their beginning.
        pad: any id; padding is masked.
        more: further inputs, such as the features of images and ``adapter_names``.
    """
    runs: Any = model
    ids, mask = left_padded([row.request.tokens for row in rows], pad)
    device = model.device
    settings = GenerationConfig(
        max_new_tokens=max(row.limit for row in rows),
        do_sample=False,  # a row's choice is the only token left: see _Choice
        eos_token_id=None,
        pad_token_id=pad,
        use_cache=True,
    )
    plain: Any = runs.get_base_model() if isinstance(runs, PeftModel) else runs
    kept, plain.generation_config = plain.generation_config, GenerationConfig()
    try:  # the checkpoint's own settings would fill in whatever is not said here
        runs.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Choice(rows)]),
            stopping_criteria=StoppingCriteriaList([_Ended(rows)]),
            **more,
        )
    finally:
        plain.generation_config = kept


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one tensor of ids and one of what is no padding."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


class _Choice(LogitsProcessor):
    """Leaves of each row's logits only the token that is chosen."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = advance(self._rows, scores)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, torch.tensor(tokens, device=scores.device)[:, None], 0.0)


class _Ended(StoppingCriteria):
    """Which rows have ended."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **other: Any) -> torch.Tensor:
        ended = [row.finish is not None for row in self._rows]
        return torch.tensor(ended, device=input_ids.device)


@torch.no_grad()
def prompt_logprobs(
    model: PreTrainedModel, tokens: Sequence[int], more: Mapping[str, Any], top: int = 0
) -> tuple[list[float], list[dict[int, float]]]:
    """What the model believes of every prompt token but the first, and of the ``top`` most likely
    ones there.
    """
    ids = torch.tensor([list(tokens)], device=model.device)
    logits_TV = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more
    ).logits[0, :-1]
    found: list[float] = []
    others: list[dict[int, float]] = []
    for part_NV, next_N in zip(logits_TV.split(256), ids[0, 1:].split(256), strict=True):
        log_NV = part_NV.float().log_softmax(-1)
        found += log_NV.gather(1, next_N[:, None])[:, 0].tolist()
        values_NK, ids_NK = log_NV.topk(top)
        pairs = zip(ids_NK.tolist(), values_NK.tolist(), strict=True)
        others += [dict(zip(ids, values, strict=True)) for ids, values in pairs]
    return found, others
