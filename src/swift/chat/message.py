"""What a conversation is made of. Plain frozen data; every layer above speaks in these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a video or a sound: where it lies. Decoded as late as possible."""

    kind: Literal["image", "video", "audio"]
    source: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant wants called."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    ``content`` is text, or parts of text and media in order. ``weight`` says how much an
    assistant's turn is learned: None leaves it to the strategy of the run, 0 is not at all.
    """

    role: str
    content: str | tuple[str | Media, ...] = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: float | None = None

    def for_template(self) -> dict[str, Any]:
        """The mapping that chat templates read (OpenAI's names); absent fields are left out."""
        turn: dict[str, Any] = {"role": self.role}
        if isinstance(self.content, str):
            turn["content"] = self.content
        else:
            turn["content"] = [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind}
                for part in self.content
            ]
        if self.thinking is not None:
            turn["reasoning_content"] = self.thinking
        if self.tool_calls:
            turn["tool_calls"] = [
                {
                    "type": "function",
                    **({"id": call.id} if call.id else {}),
                    "function": {"name": call.name, "arguments": dict(call.arguments)},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        return turn


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, the tools on offer (OpenAI's form), and what else a template reads."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def media(self) -> tuple[Media, ...]:
        """Every medium, in the order in which it is mentioned."""
        return tuple(
            part
            for message in self.messages
            if not isinstance(message.content, str)
            for part in message.content
            if isinstance(part, Media)
        )


@dataclass(frozen=True, slots=True)
class Text:
    """A document without roles, for pre-training."""

    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Tokens, and how much each is learned: 0 is read only, 1 the usual."""

    tokens: list[int]
    weights: list[float]
    media: tuple[Media, ...] = ()
