"""What a conversation is made of. Plain frozen data; every layer above speaks in these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
TAGS = ("<think>", "</think>")  # how data sets write thinking into the content
Kind = Literal["image", "video", "audio"]
KINDS: tuple[Kind, ...] = ("image", "video", "audio")
ROLES: tuple[str, ...] = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a video or a sound: where it lies. Decoded as late as possible.

    ``source`` is a path, an address or a ``data:`` URL; of a video also those of its frames.
    """

    kind: Kind
    source: str | tuple[str, ...]


Scale = Literal["real", "norm1", "norm1000"]


@dataclass(frozen=True, slots=True)
class Box:
    """A place in an image: (x, y), or (left, top, right, bottom).

    ``scale`` is ``real`` for pixels of the image as it is seen (upright), ``norm1`` for parts of
    width and height, ``norm1000`` for thousandths of them; ``image`` is the number of the image in
    its conversation, from 0.
    """

    corners: tuple[float, ...]
    scale: Scale = "real"
    image: int = 0


@dataclass(frozen=True, slots=True)
class Ref:
    """The name of something that is to be found in an image, or was."""

    name: str


Part = str | Media | Box | Ref


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant wants called."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None

    def for_template(self, text_arguments: bool) -> dict[str, Any]:
        """The mapping that chat templates read."""
        arguments: Any = dict(self.arguments)
        if text_arguments:
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": arguments}
        return {"type": "function", **({"id": self.id} if self.id else {}), "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    ``content`` is text, or parts of text, media and boxes in order. ``weight`` says how much an
    assistant's turn is learned: None leaves it to the strategy of the run, 0 is not at all.
    ``prefix`` is how the content of an answer begins that somebody else wrote: it is read, never
    learned; a model that is asked goes on behind it.
    """

    role: str
    content: str | tuple[Part, ...] = ""
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    weight: float | None = None
    prefix: str = ""

    @property
    def has_objects(self) -> bool:
        """Whether it holds places in images, or names of what is there."""
        return not isinstance(self.content, str) and any(
            isinstance(part, Box | Ref) for part in self.content
        )

    @property
    def has_tags(self) -> bool:
        """Whether it is an answer with its thinking written into the content."""
        return (
            self.role == "assistant"
            and self.thinking is None
            and isinstance(self.content, str)
            and self.content.lstrip().startswith(TAGS[0])
            and TAGS[1] in self.content
        )

    def without_tags(self) -> Message:
        """The same with such thinking in the field that templates read it from."""
        if not self.has_tags:
            return self
        inner = str(self.content).lstrip().removeprefix(TAGS[0])
        thinking, _, content = inner.partition(TAGS[1])
        return replace(self, content=content.lstrip("\n"), thinking=thinking.strip("\n"))

    def for_template(
        self, *, text_arguments: bool = False, in_parts: bool = False
    ) -> dict[str, Any]:
        """The mapping that chat templates read (OpenAI's names); absent fields are left out.

        Args:
            text_arguments: write the arguments of tool calls as the text of their JSON.
            in_parts: write also a content that is text alone as a list of parts. The part of a
                box is empty: every family of models writes it in another way.
        """
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if in_parts or not isinstance(self.content, str):
            parts = (self.content,) if isinstance(self.content, str) else self.content
            turn["content"] = [_for_template(part) for part in parts]
        if self.thinking is not None:
            turn["reasoning_content"] = self.thinking
        if self.tool_calls:
            turn["tool_calls"] = [call.for_template(text_arguments) for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        return turn


def _for_template(part: Part) -> dict[str, str]:
    if isinstance(part, Media):
        return {"type": part.kind}
    if isinstance(part, Ref):
        return {"type": "text", "text": part.name}
    return {"type": "text", "text": part if isinstance(part, str) else ""}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, the tools on offer (OpenAI's form), and what else a template reads."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def media(self) -> tuple[Media, ...]:
        """Every medium, in the order in which it is mentioned."""
        return media_of(self.messages)


def media_of(messages: Sequence[Message]) -> tuple[Media, ...]:
    """Every medium of some messages, in the order in which it is mentioned."""
    return tuple(
        part
        for message in messages
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


@dataclass(frozen=True, slots=True)
class Delta:
    """What one more token adds to an answer."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
