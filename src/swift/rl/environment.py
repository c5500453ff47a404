"""What reacts to answers: tools, games, checkers.

An environment is made anew for every episode. ``reset`` says what the model is told first, ``step``
takes its answer and says what comes back; only the model's own tokens are ever learned.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from swift.chat.message import Conversation, Message
from swift.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """What comes back for an answer."""

    messages: tuple[Message, ...] = ()  # of the user or of tools; empty where the episode is over
    reward: float | None = None  # None: this step is not judged
    done: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)


class Environment(Protocol):
    """One episode."""

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        """What the model is told first; usually what the row says."""

    def step(self, answer: Message) -> Step:
        """React to an answer."""


Make = Callable[[Mapping[str, Any]], Environment]
"""Settings -> an environment; registered in the group ``environment``."""


class ToolEnvironment:
    """Functions that the model may call; the episode ends with an answer that calls none.

    A function that raises answers with its error, so that the model can mend its call.
    """

    def __init__(self, tools: Mapping[str, Callable[..., Any]], schemas: tuple[Any, ...]) -> None:
        """Take tools.

        Args:
            tools: by name.
            schemas: their descriptions in OpenAI's form, as the template shows them.
        """
        self._tools, self._schemas = tools, schemas

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        """The row's messages, with the tools on offer."""
        return Conversation(asked.messages, self._schemas, asked.template_kwargs)

    def step(self, answer: Message) -> Step:
        """The results of the calls."""
        found = tuple(
            Message("tool", self._call(call.name, call.arguments), tool_call_id=call.id)
            for call in answer.tool_calls
        )
        return Step(found, done=not found)

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        if name not in self._tools:
            return f"error: there is no tool {name!r}; there are {', '.join(self._tools)}"
        try:
            result = self._tools[name](**arguments)
        except Exception as error:
            return f"error: {type(error).__name__}: {error}"
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


class GymEnvironment:
    """Anything with gymnasium's ``reset() -> (observation, info)`` and ``step(action) ->
    (observation, reward, terminated, truncated, info)``, where actions and observations are texts.
    """

    def __init__(self, game: Any) -> None:
        """Take a game that was made for this episode."""
        self._game = game

    def reset(self, asked: Conversation, columns: Mapping[str, Any]) -> Conversation:
        """The row's messages, and the first observation behind them."""
        observation, _ = self._game.reset(options=dict(columns))
        said = (*asked.messages, Message("user", str(observation)))
        return Conversation(_joined(said), asked.tools, asked.template_kwargs)

    def step(self, answer: Message) -> Step:
        """Play the answer's text."""
        seen, reward, ended, cut, _ = self._game.step(str(answer.content).strip())
        done = bool(ended or cut)
        return Step(() if done else (Message("user", str(seen)),), float(reward), done)


def _joined(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Two messages of the user in a row as one: many templates want turns to alternate."""
    *before, first, last = (Message("user"), *messages)
    if first.role != "user" or not before or not isinstance(first.content, str):
        return messages
    return (*before[1:], Message("user", f"{first.content}\n\n{last.content}"))


def gym(settings: Mapping[str, Any]) -> Environment:
    """A game by its class: ``{"make": "package.module:Class", ...}``, the rest are its arguments.

    Raises:
        ConfigError: there is no such class.
    """
    rest = dict(settings)
    make = made_by(str(rest.pop("make", "")))
    return GymEnvironment(make(**rest))


def made_by(place: str) -> Callable[..., Any]:
    """A class by its place, ``package.module:Class``.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = place.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"--environment_settings: make is {place!r}, which cannot be had ({error}); write "
            '{"make": "package.module:Class"}'
        ) from None
    return found
