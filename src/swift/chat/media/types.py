"""Types of tokens: text, or which medium a token stands for, as a checkpoint's processor says."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

NAMES = ("token_type_ids", "mm_token_type_ids")
"""What models call them."""

Types = dict[str, np.ndarray[Any, Any]]
"""By the names of the model's arguments."""

Rows = Sequence[tuple[Sequence[int], int]]
"""Tokens of samples, and how many of them are read before the first that is learned."""


def token_types(processor: Any, rows: Rows) -> Types:
    """Types of the tokens of samples that are laid end to end.

    A processor either names the media, or, where it takes a ``suffix``, tells what is read (0, in
    both directions) from what is learned behind it (1, in one).

    Args:
        processor: transformers'.
        rows: of the samples.
    """
    names = [name for name in NAMES if name in processor.model_input_names]
    if getattr(processor, "return_mm_token_type_ids", False):
        made = processor.create_mm_token_type_ids([list(tokens) for tokens, _ in rows])
    elif "suffix" in inspect.signature(type(processor).__call__).parameters:
        made = [[int(at >= read) for at in range(len(tokens))] for tokens, read in rows]
    else:
        return {}
    return {name: np.concatenate([np.asarray(row, np.int64) for row in made]) for name in names}
