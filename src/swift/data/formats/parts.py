"""The content of a message: text, parts of text and media, and Anthropic's blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.chat.message import KINDS, Kind, Media, Message, Part, ToolCall
from swift.data.formats.calls import call_of, id_of
from swift.data.formats.form import text_of
from swift.data.formats.media import EMPTY, part_source, plain
from swift.errors import DataError

_TEXTS = ("text", "input_text", "output_text")
_MEDIA: dict[str, Kind] = {
    **{kind: kind for kind in KINDS},
    **{f"{kind}_url": kind for kind in KINDS},
    **{f"input_{kind}": kind for kind in KINDS},
}
_BLOCKS = ("thinking", "tool_use", "tool_result")
_KEYS = ("source", "url", "path", "base64", "bytes")


def content_of(value: Any, where: str) -> str | tuple[Part, ...]:
    """Text, or a list of parts."""
    if isinstance(value, list):
        return plain([_part(part, f"{where}[{i}]") for i, part in enumerate(value)])
    return text_of(value, where)


def result_of(value: Any, where: str) -> str | tuple[Part, ...]:
    """What a tool gave back: as any content, or an object, which is written as JSON."""
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return content_of(value, where)


def _part(part: Any, where: str) -> Part:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind in _TEXTS:
        return text_of(part.get("text"), f"{where}.text")
    if isinstance(kind, str) and kind in _MEDIA:
        key = next((key for key in (kind, _MEDIA[kind]) if part.get(key) is not None), None)
        if key is not None:
            return Media(_MEDIA[kind], part_source(part[key], f"{where}.{key}", _MEDIA[kind]))
        if any(part.get(key) is not None for key in _KEYS):
            return Media(_MEDIA[kind], part_source(part, where, _MEDIA[kind]))
        return Media(_MEDIA[kind], EMPTY)
    raise DataError(f"{where} has type {kind!r}; known are text, image, video and audio")


def has_blocks(value: Any) -> bool:
    """Whether a content holds blocks that are more than parts of a text."""
    return isinstance(value, list) and any(
        isinstance(block, Mapping) and block.get("type") in _BLOCKS for block in value
    )


@dataclass
class _Said:
    """What the blocks of one message hold, gathered one by one."""

    role: str
    where: str
    results: list[Message] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, block: Any, where: str) -> None:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind in ("thinking", "tool_use") and self.role != "assistant":
            raise DataError(f"{where} is {kind}, which only an assistant's message may hold")
        if kind == "tool_result" and self.role == "assistant":
            raise DataError(f"{where} is tool_result, which only a user's message may hold")
        if kind == "thinking":
            self.thinking.append(text_of(block.get("thinking"), f"{where}.thinking"))
        elif kind == "tool_use":
            self.calls.append(call_of(block, where))
        elif kind == "tool_result":
            self.flush()
            self.results.append(_result(block, where))
        elif self.calls:
            raise DataError(f"{where} stands behind a tool_use; calls are the end of a message")
        else:
            self.parts.append(_part(block, where))

    def flush(self) -> None:
        """What was said so far becomes a message of its own."""
        if self.parts:
            self.results.append(Message(self.role, plain(self.parts)))
            self.parts = []


def _result(block: Mapping[str, Any], where: str) -> Message:
    content = block.get("content")
    return Message(
        "tool",
        "" if content is None else result_of(content, f"{where}.content"),
        tool_call_id=id_of(block.get("tool_use_id"), f"{where}.tool_use_id"),
    )


def from_blocks(role: str, blocks: list[Any], where: str, weight: float | None) -> list[Message]:
    """Anthropic's blocks as messages: every result of a tool is one of its own.

    Raises:
        DataError: a block is unknown, or stands where none of its kind can be.
    """
    said = _Said(role, where)
    for i, block in enumerate(blocks):
        said.add(block, f"{where}.content[{i}]")
    if role != "assistant":
        said.flush()
        return said.results
    thinking = "\n".join(said.thinking) if said.thinking else None
    calls = tuple(said.calls)
    return [Message(role, plain(said.parts), thinking, calls, weight=weight)]
