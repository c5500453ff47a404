"""Right answers, better when short; wrong ones, better when long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from swift.config.reward import RewardSection
from swift.rl.rewards.number import number


def cosine(
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    settings: RewardSection,
    **columns: Any,
) -> list[float | None]:
    """A cosine between the values of the shortest and the longest answer, right or wrong.

    min + (max - min) (1 + cos(pi t / T)) / 2, with ``number`` as the judge of what is right:
    "Demystifying long chain-of-thought reasoning" (arXiv:2502.03373, section 4.1).
    """
    judged = number(completions, **columns)
    most = settings.cosine_max_len
    assert most is not None  # filled in from max_completion_length
    right = (settings.cosine_max_len_value_correct, settings.cosine_min_len_value_correct)
    wrong = (settings.cosine_max_len_value_wrong, settings.cosine_min_len_value_wrong)
    found: list[float | None] = []
    for verdict, tokens in zip(judged, completion_ids, strict=True):
        if verdict is None:
            found.append(None)
            continue
        last, first = right if verdict >= 1 else wrong
        part = math.cos(math.pi * min(len(tokens), most) / most)
        found.append(last + (first - last) * (1 + part) / 2)
    return found
