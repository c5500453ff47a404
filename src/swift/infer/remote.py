"""Messages answered by any OpenAI-compatible server: it has its own template and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.chat.message import Conversation, Delta, Message, ToolCall
from swift.config.infer import InferSection
from swift.errors import ConfigError, DataError, ServerError
from swift.infer.backends.client import Address, Client, ask_all
from swift.infer.backends.dialects import finish
from swift.infer.engine import Completion, Sampling
from swift.infer.talk import sampling_of

_PATH = "/chat/completions"


@dataclass(frozen=True)
class RemoteTalker:
    """Answers messages by way of ``/chat/completions``.

    Only what every such server understands is sent; what else is asked for is refused, because a
    server ignores in silence what it does not know.
    """

    address: Address  # its url ends where /chat/completions begins, often in /v1
    model: str
    sampling: Sampling

    def __post_init__(self) -> None:
        """Refuse a sampling that cannot be sent.

        Raises:
            ConfigError: with everything that cannot.
        """
        s = self.sampling
        wanted = {
            "top_k": s.top_k != 0,
            "min_p": s.min_p != 0,
            "repetition_penalty": s.repetition_penalty != 1,
            "prompt_logprobs": s.prompt_logprobs,
            "logprobs": s.logprobs is not None,
            "stop ids": bool(s.stop_ids),
            "bad_words": bool(s.bad_words),
            "logit_bias": bool(s.logit_bias),
            "guided generation but JSON": s.guide is not None and s.guide.kind != "json",
        }
        if missing := [name for name, asked in wanted.items() if asked]:
            raise ConfigError(*(f"the http engine has no {name}" for name in missing))

    def answers(
        self, asked: Sequence[Conversation], seeds: Sequence[int] | None = None
    ) -> list[tuple[Message, Completion]]:
        """The answer to each conversation; of its tokens nothing is known.

        Raises:
            DataError: a conversation holds what cannot be sent.
            ConfigError, ServerError: the server refuses, or fails.
        """
        bodies = [self._body(one, stream=False) for one in asked]
        if seeds:
            bodies = [{**body, "seed": s} for body, s in zip(bodies, seeds, strict=True)]

        async def ask(client: Client, body: Mapping[str, Any]) -> tuple[Message, Completion]:
            choice = _choice(await client.ask(_PATH, body))
            said = choice.get("message")
            if not isinstance(said, dict):
                raise ServerError(f"{self.address.url}: an answer without a message: {choice}")
            reason = finish(choice.get("finish_reason")) or "cancelled"
            if choice.get("finish_reason") == "tool_calls":
                reason = "stop"
            return _message(said), Completion([], reason)

        return ask_all(self.address, bodies, ask)

    def stream(self, asked: Conversation, show: Callable[[Delta], None]) -> Message:
        """One answer, shown piece by piece; raises as :meth:`answers`."""

        async def ask(client: Client, body: Mapping[str, Any]) -> Message:
            whole: dict[str, Any] = {"content": "", "reasoning_content": ""}
            calls: dict[int, dict[str, Any]] = {}
            ended = False
            async for event in client.events(_PATH, body):
                if not event.get("choices"):
                    continue  # a word about usage
                choice = _choice(event)
                delta, ended = choice.get("delta") or {}, ended or bool(choice.get("finish_reason"))
                thinking, text = _thinking(delta) or "", delta.get("content") or ""
                whole["content"] += text
                whole["reasoning_content"] += thinking
                for part in delta.get("tool_calls") or []:
                    _add(calls.setdefault(part.get("index", 0), {}), part)
                if text or thinking:
                    show(Delta(text, thinking))
            if not ended:
                raise ServerError(f"{self.address.url}{_PATH}: the stream ended before the answer")
            message = _message({**whole, "tool_calls": [calls[i] for i in sorted(calls)]})
            if message.tool_calls:
                show(Delta("", "", message.tool_calls))
            return message

        return ask_all(self.address, [self._body(asked, stream=True)], ask)[0]

    def _body(self, asked: Conversation, *, stream: bool) -> dict[str, Any]:
        if asked.media:
            raise DataError("the http engine sends text alone, and there are media in it")
        if asked.messages and asked.messages[-1].prefix:
            raise DataError("the http engine cannot go on with an answer that has begun")
        if asked.template_kwargs:
            raise DataError("chat_template_kwargs: the http engine's server has its own template")
        s = self.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.for_template(text_arguments=True) for message in asked.messages],
            "max_tokens": s.max_tokens,
            "temperature": s.temperature,
            "stream": stream,
        }
        optional: dict[str, Any] = {
            "tools": list(asked.tools),
            "stop": list(s.stop),
            "presence_penalty": s.presence_penalty,
            "frequency_penalty": s.frequency_penalty,
        }
        body |= {name: value for name, value in optional.items() if value}
        if s.top_p != 1:
            body["top_p"] = s.top_p
        if s.seed is not None:
            body["seed"] = s.seed
        if s.guide is not None:
            schema = {"name": "answer", "schema": s.guide.value, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def remote_talker(settings: InferSection, model: str) -> RemoteTalker:
    """The server that a configuration names.

    Raises:
        ConfigError: it asks for what cannot be sent.
    """
    assert settings.base_url is not None
    address = Address(settings.base_url.rstrip("/"), settings.api_key)
    return RemoteTalker(address, model, sampling_of(settings))


def _choice(answer: Any) -> dict[str, Any]:
    try:
        choice = answer["choices"][0]
    except (KeyError, IndexError, TypeError):
        choice = None
    if not isinstance(choice, dict):
        raise ServerError(f"the server's answer has no choices: {str(answer)[:200]}")
    return choice


def _thinking(said: Mapping[str, Any]) -> str | None:
    """Servers call it by two names."""
    return said.get("reasoning_content") or said.get("reasoning")


def _add(call: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Put a piece of a tool call behind what there is of it."""
    function = part.get("function") or {}
    into = call.setdefault("function", {"name": "", "arguments": ""})
    into["name"] += function.get("name") or ""
    into["arguments"] += function.get("arguments") or ""
    if part.get("id"):
        call["id"] = part["id"]


def _message(said: Mapping[str, Any]) -> Message:
    calls = tuple(_call(call) for call in said.get("tool_calls") or [])
    return Message("assistant", said.get("content") or "", _thinking(said) or None, calls)


def _call(call: Any) -> ToolCall:
    """A tool call, once its arguments are proven to be a mapping.

    Raises:
        ServerError: they are not.
    """
    try:
        function = call["function"]
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
        if isinstance(arguments, dict):
            return ToolCall(str(function["name"]), arguments, call.get("id"))
    except (KeyError, TypeError, ValueError):
        pass
    raise ServerError(f"the server calls a tool with arguments that are no mapping: {call}")
