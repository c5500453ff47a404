"""``{"messages": [{"role": "user", "content": "..."}, ...]}``: OpenAI's form and most others'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.chat.message import Conversation, Media, Message, ToolCall
from swift.data.formats.form import Format, Row, text_of, unpacked
from swift.errors import DataError

_ROLES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant",
    "model": "assistant", "function": "tool", "observation": "tool", "ipython": "tool",
    "tool_response": "tool", "function_response": "tool",
}  # fmt: skip
_HEAVIEST = 1e6  # a weight above it is a mistake, or no number at all
_THINKING = ("reasoning_content", "thinking", "reasoning")


def conversation(messages: list[Message], row: Row) -> Conversation:
    """Messages with the columns that may stand beside them in any format: system, tools."""
    system = row.get("system")
    if system and not (messages and messages[0].role == "system"):
        messages.insert(0, Message("system", text_of(system, "system")))
    return Conversation(tuple(messages), tools(row.get("tools")))


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool definitions: a list, or the JSON text of one."""
    value = unpacked(value, "tools")
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError("tools should be a list of JSON objects")
    return tuple(value)


def role_of(role: Any, where: str) -> str:
    """The usual name of a role."""
    if not isinstance(role, str) or not role:
        raise DataError(f"{where} has no role")
    return _ROLES.get(role, role)


def message_of(turn: Any, where: str) -> Message:
    """One message from its mapping."""
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} should be a JSON object with role and content")
    role = role_of(turn.get("role"), where)
    calls = turn.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise DataError(f"{where}.tool_calls should be a list")
    thinking = next((turn[key] for key in _THINKING if turn.get(key) is not None), None)
    return Message(
        role=role,
        content=_content(turn.get("content"), where, bool(calls)),
        thinking=None if thinking is None else text_of(thinking, f"{where}.reasoning_content"),
        tool_calls=tuple(call_of(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)),
        tool_call_id=turn.get("tool_call_id"),
        name=turn.get("name"),
        weight=_weight(turn, where),
    )


def _content(value: Any, where: str, optional: bool) -> str | tuple[str | Media, ...]:
    if value is None and optional:
        return ""
    if isinstance(value, list):
        parts = [_part(part, f"{where}.content[{i}]") for i, part in enumerate(value)]
        if all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if isinstance(part, str))
        return tuple(parts)
    return text_of(value, f"{where}.content")


def _part(part: Any, where: str) -> str | Media:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return text_of(part.get("text"), f"{where}.text")
    if kind in ("image", "image_url", "video", "audio", "input_audio"):
        name: Any = {"image_url": "image", "input_audio": "audio"}.get(kind, kind)
        source = part.get(kind)
        if isinstance(source, Mapping):
            source = source.get("url") or source.get("data")
        return Media(name, str(source))
    raise DataError(f"{where} has type {kind!r}; known are text, image, video and audio")


def call_of(call: Any, where: str) -> ToolCall:
    """One tool call from its mapping, OpenAI's or the inner one alone."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} has no function name")
    arguments = unpacked(function.get("arguments"), f"{where}.arguments") or {}
    if not isinstance(arguments, Mapping):
        raise DataError(f"{where}.arguments should be a JSON object")
    return ToolCall(function["name"], arguments, call.get("id"))


def _weight(turn: Mapping[str, Any], where: str) -> float | None:
    for key in ("loss", "loss_scale", "weight"):
        value = turn.get(key)
        if value is None:
            continue
        if isinstance(value, bool | int | float) and 0 <= value <= _HEAVIEST:
            return float(value)
        raise DataError(f"{where}.{key} should be true, false or a number from 0 to {_HEAVIEST:g}")
    return None


def _read(row: Row) -> Conversation:
    turns = unpacked(row["messages"], "messages")
    if not isinstance(turns, list):
        raise DataError("messages should be a list")
    return conversation([message_of(turn, f"messages[{i}]") for i, turn in enumerate(turns)], row)


FORMAT = Format(
    "messages",
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
    lambda row: "messages" in row,
    _read,
)
