"""Is the answer mathematically the right one? Numbers, expressions, sets, by math-verify."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from math_verify import parse, verify

from swift.rl.rewards.answer import answer_in

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off


def accuracy(
    completions: Sequence[str], solution: Sequence[Any] = (), **columns: Any
) -> list[float | None]:
    """1 where the answer equals ``solution`` as mathematics, 0 where it does not.

    None where the row has no solution or one that cannot be understood (ms-swift gives 0 there,
    which would teach that every answer to it is wrong).
    """
    solutions = list(solution) or [None] * len(completions)
    return [_judge(text, right) for text, right in zip(completions, solutions, strict=True)]


def _judge(text: str, right: Any) -> float | None:
    if right is None:
        return None
    expected = _read(str(right))
    if not expected:
        return None
    # its own time limits work by a signal, which only a main thread may have
    return float(verify(expected, _read(text), timeout_seconds=None))


def _read(text: str) -> Any:
    """What a text says as mathematics: its answer as LaTeX, else as it stands."""
    answer = answer_in(text)
    return parse(f"${answer}$", parsing_timeout=None) or parse(answer, parsing_timeout=None)
