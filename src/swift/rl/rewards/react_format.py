"""Does the answer have the form of thinking, then a tool call as ReAct writes it?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_FORM = re.compile(r"<think>.*?</think>\s*Action:.*?Action Input:.*", re.DOTALL)


def react_format(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """1 for ``<think>...</think> Action: ... Action Input: ...``, else 0."""
    return [float(bool(_FORM.fullmatch(text))) for text in completions]
