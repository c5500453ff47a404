"""Does the program pass its tests? It runs in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swift.config.reward import RewardSection
from swift.rl import sandbox
from swift.rl.rewards.answer import column

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def code(completions: Sequence[str], settings: RewardSection, **columns: Any) -> list[float | None]:
    """The share of tests that pass.

    A row has ``tests`` (Python that raises where something is wrong, run behind the answer), or
    ``cases`` (a list of ``{"input": ..., "output": ...}``: what the program reads and must print;
    these are compared outside of the sandbox, so no program can forge them). ``starter`` is put
    before the answer. None where a row has neither.
    """
    count = len(completions)
    rows = zip(
        completions, column(columns, "tests", count), column(columns, "cases", count),
        column(columns, "starter", count), strict=True,
    )  # fmt: skip
    limits = sandbox.Limits(settings.code_time_s, settings.code_memory_mib)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda row: _judge(row, limits), rows))


def program(text: str) -> str:
    """The last block of code of an answer, else all of it."""
    blocks = _BLOCK.findall(text)
    return str(blocks[-1]) if blocks else text


def _judge(row: tuple[str, Any, Any, Any], limits: sandbox.Limits) -> float | None:
    text, tests, cases, starter = row
    source = f"{starter or ''}{program(text)}\n"
    if tests is not None:
        # a program may end itself with code 0 before a test runs: only the end of them says this
        word = secrets.token_hex(16)
        ran = sandbox.run(f"{source}\n{tests}\nprint({word!r})\n", limits=limits)
        return float(ran.ending == "done" and ran.output.rstrip().endswith(word))
    if cases is None:
        return None
    cases = json.loads(cases) if isinstance(cases, str) else cases
    passed = 0
    for case in cases:
        ran = sandbox.run(source, str(case["input"]), limits)
        passed += ran.ending == "done" and _lines(ran.output) == _lines(str(case["output"]))
    return passed / len(cases) if cases else None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
