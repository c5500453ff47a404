"""Where in a text its answer is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


def answer_in(text: str) -> str:
    """What stands in the last ``<answer>`` tags, in the last box of LaTeX, or behind ``####``;
    else what follows the thinking.
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        return str(tagged[-1]).strip()
    boxed = list(_boxed(text))
    if boxed:
        return boxed[-1].strip()
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return _THOUGHT.sub("", text).strip()


def _boxed(text: str) -> Iterator[str]:
    for found in re.finditer(r"\\boxed\s*\{", text):
        depth = 1
        for at in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                yield text[found.end() : at]
                break


def column(columns: dict[str, Any], name: str, count: int) -> list[Any]:
    """A column, or None for each row where the data have none."""
    return list(columns.get(name) or [None] * count)
