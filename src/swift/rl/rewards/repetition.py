"""A penalty for saying the same again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.config.reward import RewardSection


def repetition(
    completions: Sequence[str], settings: RewardSection, **columns: Any
) -> list[float | None]:
    """The penalty times the share of n-grams of words that came before.

    "Demystifying long chain-of-thought reasoning" (arXiv:2502.03373, section 4.2).
    """
    return [
        settings.repetition_max_penalty * _repeated(text.lower().split(), settings)
        for text in completions
    ]


def _repeated(words: list[str], settings: RewardSection) -> float:
    n = settings.repetition_n_grams
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
