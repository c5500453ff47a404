"""A language model as the judge, asked over HTTP."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swift.config.reward import RewardSection

_SCORE = re.compile(r"score\s*[:=]\s*\**\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def judge(
    completions: Sequence[str],
    settings: RewardSection,
    questions: Sequence[str] = (),
    **columns: Any,
) -> list[float | None]:
    """The number behind the judge's last ``Score:``; None where it says none.

    Raises:
        OSError: the server cannot be reached or refuses.
    """
    rows = []
    for i, text in enumerate(completions):
        row = {name: values[i] for name, values in columns.items()}
        rows.append({"solution": "", **row, "answer": text, "question": list(questions)[i]})
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda row: _ask(row, settings), rows))


def _ask(row: dict[str, Any], settings: RewardSection) -> float | None:
    prompt = re.sub(r"\{(\w+)\}", lambda m: str(row.get(m[1], m[0])), settings.judge_prompt)
    body = {
        "model": settings.judge_model,
        "temperature": 0,
        "messages": [{"role": "user", "content": prompt}],
    }
    request = urllib.request.Request(
        f"{settings.judge_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=settings.timeout_s) as reply:
        said = json.load(reply)["choices"][0]["message"]["content"] or ""
    found = _SCORE.findall(said)
    return float(found[-1]) if found else None
