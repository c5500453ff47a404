"""Does the answer have the form of thinking, then an answer?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_FORM = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def format(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """1 for ``<think>...</think><answer>...</answer>`` and nothing around it, else 0."""
    return [float(bool(_FORM.fullmatch(text))) for text in completions]
