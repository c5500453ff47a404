"""Rewards of answers from several functions, whatever these do."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift import registry
from swift.config.reward import RewardSection
from swift.errors import ConfigError

Reward = Callable[..., Any]
"""``reward(completions, **columns) -> list[float | None]``, or a coroutine of it."""

FAULTS = ("reward_error", "reward_time", "reward_not_finite")


@dataclass
class Judges:
    """The reward functions of a run, by name; counts what goes wrong with them."""

    functions: dict[str, Reward]
    timeout_s: float
    faults: Counter[str] = field(default_factory=Counter)

    def __call__(
        self, completions: Sequence[str | None], columns: Mapping[str, Sequence[Any]]
    ) -> list[list[float]]:
        """A row of rewards for each completion, NaN where it was not judged.

        A completion of None is an answer that there is not: nobody judges it. A function that
        raises is asked again one by one, so that only what it cannot judge is lost; one that takes
        too long, and a number that is not finite, count as not judged.

        Raises:
            ConfigError: a function gives another number of rewards than there are completions.
        """
        there = [i for i, text in enumerate(completions) if text is not None]
        texts = [completions[i] for i in there]
        chosen = {name: [values[i] for i in there] for name, values in columns.items()}
        found = [[math.nan] * len(self.functions) for _ in completions]
        threads = []
        for column, (name, function) in enumerate(self.functions.items()):
            box: dict[str, Any] = {}
            work = functools.partial(self._ask, name, function, texts, chosen, box)
            thread = threading.Thread(target=work, daemon=True, name=f"reward {name}")
            thread.start()
            threads.append((column, thread, box))
        for column, thread, box in threads:
            thread.join(self.timeout_s)
            if thread.is_alive():  # it cannot be ended; whatever it still finds is not read
                self.faults["reward_time"] += 1
                continue
            if "wrong" in box:
                raise ConfigError(box["wrong"])
            for i, value in zip(there, box["rewards"], strict=True):
                found[i][column] = self._number(value)
        return found

    def _ask(
        self,
        name: str,
        function: Reward,
        texts: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        box: dict[str, Any],
    ) -> None:
        try:
            rewards = call(function, texts, columns)
        except Exception:
            rewards = [self._one(function, texts, columns, i) for i in range(len(texts))]
        if len(rewards) != len(texts):
            box["wrong"] = (
                f"--reward_funcs {name}: {len(rewards)} rewards for {len(texts)} completions; "
                "return one for each, None where there is none"
            )
        box["rewards"] = rewards

    def _one(
        self, function: Reward, texts: Sequence[Any], columns: Mapping[str, Sequence[Any]], i: int
    ) -> Any:
        own = {name: values[i : i + 1] for name, values in columns.items()}
        try:
            return call(function, texts[i : i + 1], own)[0]
        except Exception:
            self.faults["reward_error"] += 1
            return None

    def _number(self, value: Any) -> float:
        if value is None:
            return math.nan
        if not math.isfinite(float(value)):
            self.faults["reward_not_finite"] += 1
            return math.nan
        return float(value)


def call(function: Reward, texts: Sequence[Any], columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Call a reward function, and wait where it is a coroutine."""
    if not texts:
        return []
    found: Any = function(list(texts), **columns)
    if inspect.isawaitable(found):
        found = asyncio.run(_wait(found))
    return list(found)


async def _wait(found: Awaitable[Any]) -> Any:
    return await found


def filled(section: RewardSection, longest: int) -> RewardSection:
    """Rewards whose lengths, where nobody says them, are that of the longest answer."""
    return section.model_copy(
        update={
            "cosine_max_len": section.cosine_max_len or longest,
            "soft_max_length": section.soft_max_length or longest,
        }
    )


def find(section: RewardSection, names: Sequence[str] | None = None) -> dict[str, Reward]:
    """The registered functions that a section names, or those of ``names``; those that want
    settings have them.

    Raises:
        MissingExtra: one needs a package that is absent.
    """
    found: dict[str, Reward] = {}
    for name in section.funcs if names is None else names:
        function = registry.load("reward", name)
        if "settings" in inspect.signature(function).parameters:
            function = functools.partial(function, settings=section)
        found[name] = function
    return found
