"""An answer as it grows: the events of a server -> what is known of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

State = Literal["open", "whole", "stopped", "failed"]


@dataclass(frozen=True)
class Call:
    """A function that the model wants called."""

    id: str
    name: str
    arguments: str  # the text of JSON, perhaps not yet all of it

    def on_the_wire(self) -> dict[str, Any]:
        """As OpenAI's protocol has it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class Reply:
    """What one model says to one question.

    Attributes:
        model: its name on the server.
        finish: why it ended, in the server's word.
        error: what the server said instead of going on.
        prompt, size: tokens of prompt and answer, where the server tells.
        first_s, took_s: seconds from the question to the first piece, and to the last.
        good: the thumb that it was given.
    """

    model: str
    id: str = ""
    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    state: State = "open"
    finish: str | None = None
    error: str = ""
    prompt: int | None = None
    size: int | None = None
    first_s: float | None = None
    took_s: float = 0.0
    good: bool | None = None

    @property
    def said(self) -> bool:
        """Whether there is something that a conversation can go on behind."""
        return bool(self.content or self.calls)

    @property
    def rate(self) -> float | None:
        """Tokens a second, from the first piece to the last."""
        if self.size is None or self.size < 2 or self.first_s is None:
            return None
        between_s = self.took_s - self.first_s
        return (self.size - 1) / between_s if between_s > 0 else None


def grown(reply: Reply, event: Mapping[str, Any], now_s: float) -> Reply:
    """A reply and an event of OpenAI's chat stream.

    Args:
        reply: what there is.
        event: a chunk.
        now_s: seconds since the question.
    """
    if usage := event.get("usage"):
        reply = replace(
            reply, prompt=usage.get("prompt_tokens"), size=usage.get("completion_tokens")
        )
    reply = replace(reply, id=event.get("id") or reply.id)
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        content = delta.get("content") or ""
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
        calls = reply.calls
        for part in delta.get("tool_calls") or ():
            calls = _called(calls, part)
        if content or thinking or delta.get("tool_calls"):
            first_s = now_s if reply.first_s is None else reply.first_s
            reply = replace(reply, first_s=first_s, took_s=now_s)
        reply = replace(
            reply,
            content=reply.content + content,
            thinking=reply.thinking + thinking,
            calls=calls,
            finish=choice.get("finish_reason") or reply.finish,
        )
    return reply


def _called(calls: tuple[Call, ...], part: Mapping[str, Any]) -> tuple[Call, ...]:
    """Calls and a piece of one: servers send a call whole, or its arguments bit by bit."""
    function = part.get("function") or {}
    at = min(part.get("index") or 0, len(calls))
    before = calls[at] if at < len(calls) else Call(f"call_{at}", "", "")
    after = Call(
        part.get("id") or before.id,
        before.name + (function.get("name") or ""),
        before.arguments + (function.get("arguments") or ""),
    )
    return (*calls[:at], after, *calls[at + 1 :])
