"""Is the answer the right number?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from swift.rl.rewards.answer import answer_in

_NUMBER = re.compile(
    r"(?P<over>[-+]?\d[\d,]*(?:\.\d+)?)\s*/\s*(?P<under>\d[\d,]*(?:\.\d+)?)"
    r"|(?P<plain>[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)(?P<percent>\s*\\?%)?"
)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")


def value(text: str) -> Fraction | None:
    r"""The last number of a text, exactly: 1,234.5, -3/4, \frac{3}{4}, 2e3, 15%; None: none."""
    text = _FRACTION.sub(r"\1\2/\3", text.replace("−", "-"))
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    parts = found[-1].groupdict()
    try:
        if parts["over"] is not None:
            return _exact(parts["over"]) / _exact(parts["under"])
        return _exact(parts["plain"]) / (100 if parts["percent"] else 1)
    except (ValueError, ZeroDivisionError):
        return None


def _exact(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def number(
    completions: Sequence[str], solution: Sequence[Any] = (), **columns: Any
) -> list[float | None]:
    """1 where the answer's last number is that of ``solution``, 0 where it is not.

    None where the row has no solution, or one without a number.
    """
    solutions = list(solution) or [None] * len(completions)
    return [_judge(text, right) for text, right in zip(completions, solutions, strict=True)]


def _judge(text: str, right: Any) -> float | None:
    expected = None if right is None else value(answer_in(str(right)))
    if expected is None:
        return None
    return float(value(answer_in(text)) == expected)
