"""Environments in the form of ms-swift: coroutines, and a system prompt from reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swift.chat.message import Conversation, Message
from swift.rl.environment import Environment, Step, made_by


@dataclass(frozen=True)
class Started:
    """What such an environment is reset with."""

    messages: list[dict[str, Any]]
    data_dict: dict[str, Any]  # the columns of the row


class AsyncGymEnvironment:
    """Anything with ``async reset(started) -> (observation, info, system prompt)``, ``async
    step(messages) -> (observation, reward, done, info)`` and ``async close()``.

    It is made with its settings and the row's ``env_config``; what it says first stands in place of
    the row's messages.
    """

    def __init__(self, make: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]) -> None:
        """Take what makes the game, and its settings."""
        self._make, self._settings = make, dict(settings)
        self._game: Any = None
        self._said: list[dict[str, Any]] = []

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        """The system prompt and the first observation."""
        self._game = self._make({**self._settings, **(columns.get("env_config") or {})})
        started = Started([m.for_template() for m in asked.messages], dict(columns))
        seen, _, system = asyncio.run(self._game.reset(started))
        first = (Message("system", str(system)),) if system else ()
        messages = (*first, Message("user", str(seen)))
        self._said = [message.for_template() for message in messages]
        return Conversation(messages, asked.tools, asked.template_kwargs)

    def step(self, answer: Message) -> Step:
        """Play the conversation so far."""
        self._said.append(answer.for_template())
        seen, reward, done, _ = asyncio.run(self._game.step([dict(turn) for turn in self._said]))
        if done:
            asyncio.run(self._game.close())
            return Step((), float(reward))
        said = Message("user", str(seen))
        self._said.append(said.for_template())
        return Step((said,), float(reward), done=False)


def async_gym(settings: Mapping[str, Any]) -> Environment:
    """A game by its class: ``{"make": "package.module:Class", ...}``, the rest is its env_config.

    Raises:
        ConfigError: there is no such class.
    """
    rest = dict(settings)
    return AsyncGymEnvironment(made_by(str(rest.pop("make", ""))), rest)
