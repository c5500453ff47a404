"""Rewards whatever their functions do: raise, hang, give what is no number."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from swift.errors import ConfigError
from swift.rl.score import Judges

NAN = math.nan


def same(found: list[list[float]], expected: list[list[float]]) -> bool:
    return str(found) == str(expected)


def length(completions: list[str], **columns: Any) -> list[float | None]:
    return [float(len(text)) for text in completions]


def test_several_functions_see_the_columns_of_what_they_judge() -> None:
    def bonus(completions: list[str], extra: list[float], **_: Any) -> list[float | None]:
        assert len(completions) == len(extra)
        return [*extra]

    judges = Judges({"length": length, "bonus": bonus}, 5)
    found = judges(["ab", None, "abc"], {"extra": [1.0, 2.0, 3.0], "other": [0, 0, 0]})
    assert same(found, [[2.0, 1.0], [NAN, NAN], [3.0, 3.0]])


def test_a_coroutine_judges_too() -> None:
    async def slow(completions: list[str], **_: Any) -> list[float]:
        return list(await asyncio.gather(*(self(text) for text in completions)))

    async def self(text: str) -> float:
        await asyncio.sleep(0.01)
        return float(len(text))

    assert Judges({"slow": slow}, 5)(["a", "bc"], {}) == [[1.0], [2.0]]


def test_one_that_raises_loses_only_what_it_cannot_judge() -> None:
    def strict(completions: list[str], **_: Any) -> list[float]:
        return [float(text) for text in completions]

    judges = Judges({"strict": strict}, 5)
    assert same(judges(["1", "x", "3"], {}), [[1.0], [NAN], [3.0]])
    assert judges.faults == {"reward_error": 1}


def test_one_that_hangs_is_not_waited_for() -> None:
    def hangs(completions: list[str], **_: Any) -> list[float]:
        time.sleep(3)
        return [1.0] * len(completions)

    judges = Judges({"hangs": hangs, "length": length}, 0.2)
    started = time.monotonic()
    assert same(judges(["ab"], {}), [[NAN, 2.0]])
    assert time.monotonic() - started < 2
    assert judges.faults == {"reward_time": 1}


def test_what_is_no_finite_number_was_not_judged() -> None:
    def odd(completions: list[str], **_: Any) -> list[float | None]:
        return [NAN, math.inf, None, True, 2]  # type: ignore[list-item]

    judges = Judges({"odd": odd}, 5)
    assert same(judges(list("abcde"), {}), [[NAN], [NAN], [NAN], [1.0], [2.0]])
    assert judges.faults == {"reward_not_finite": 2}


def test_a_wrong_number_of_rewards_is_an_error() -> None:
    judges = Judges({"short": lambda completions, **_: [1.0]}, 5)
    with pytest.raises(ConfigError, match="1 rewards for 2 completions"):
        judges(["a", "b"], {})
