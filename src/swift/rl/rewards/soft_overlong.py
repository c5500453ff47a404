"""A penalty that grows towards the greatest length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.config.reward import RewardSection


def soft_overlong(
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    settings: RewardSection,
    **columns: Any,
) -> list[float | None]:
    """0 up to L - c tokens, then down to -1 at L (DAPO, arXiv:2503.14476, eq. 13).

    L is ``soft_max_length``, c is ``soft_cache_length``; beyond L it goes on falling.
    """
    longest, cache = settings.soft_max_length, settings.soft_cache_length
    assert longest is not None and cache is not None
    free = longest - cache
    return [min((free - len(tokens)) / cache, 0.0) for tokens in completion_ids]
