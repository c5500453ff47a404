"""A list of turns, in any of the usual forms, as messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swift.chat.message import Message, Part
from swift.data.formats.calls import call_of, calls_of, id_of
from swift.data.formats.form import text_of, unpacked
from swift.data.formats.parts import content_of, from_blocks, has_blocks, result_of
from swift.errors import DataError

_ROLES = {
    "human": "user", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant",
    "model": "assistant", "function": "tool", "observation": "tool", "observations": "tool",
    "ipython": "tool", "tool_response": "tool", "function_response": "tool",
    "function-response": "tool",
}  # fmt: skip
_CALLS = ("tool_call", "function_call", "function-call")
_HEAVIEST = 1e6  # a weight above it is a mistake, or no number at all
_PLAIN = {"role", "content"}  # what most turns have
_THINKING = ("reasoning_content", "thinking", "reasoning")
_ASKS, _SAYS = ("human", "user"), ("assistant", "gpt", "bot")  # keys of a round in one object
_KEYS = "role and content"


def turns(value: Any, column: str, keys: str = _KEYS) -> list[Message]:
    """A list of turns, or the JSON text of one, as messages.

    Turns of the role ``tool_call`` become calls of the answer directly before them, or an answer of
    their own.

    Args:
        value: what the column holds.
        column: its name.
        keys: what a turn should have, for errors.

    Raises:
        DataError: with the place of what is wrong.
    """
    value = unpacked(value, column)
    if not isinstance(value, list):
        raise DataError(f"{column} should be a list")
    found: list[Message] = []
    for i, turn in enumerate(value):
        where = f"{column}[{i}]"
        if not isinstance(turn, Mapping):
            raise DataError(f"{where} should be a JSON object with {keys}")
        if _role(turn) in _CALLS:
            _add_calls(found, turn, where)
        else:
            found += _messages(turn, where)
    return found


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))


def _content_key(turn: Mapping[str, Any]) -> str:
    return "content" if "content" in turn or ("role" in turn and "value" not in turn) else "value"


def _add_calls(found: list[Message], turn: Mapping[str, Any], where: str) -> None:
    key = _content_key(turn)
    calls = calls_of(turn.get(key), f"{where}.{key}")
    weight = _weight(turn, where)
    last = found[-1] if found else None
    if last is None or last.role != "assistant":
        found.append(Message("assistant", tool_calls=calls, weight=weight))
        return
    if weight != last.weight:
        raise DataError(f"{where} belongs to the answer before it: both need the same loss")
    found[-1] = replace(last, tool_calls=last.tool_calls + calls)


def _messages(turn: Mapping[str, Any], where: str) -> list[Message]:
    """The messages of one turn that is not only calls."""
    if "role" not in turn and "from" not in turn:
        asks = next((key for key in _ASKS if key in turn), None)
        says = next((key for key in _SAYS if key in turn), None)
        if asks and says:
            return [
                Message("user", text_of(turn[asks], f"{where}.{asks}")),
                Message("assistant", text_of(turn[says], f"{where}.{says}")),
            ]
    role = role_of(_role(turn), where)
    if has_blocks(turn.get("content")):
        return from_blocks(role, turn["content"], where, _weight(turn, where))
    return [_message(role, turn, where)]


def role_of(role: Any, where: str) -> str:
    """The usual name of a role."""
    if not isinstance(role, str) or not role:
        raise DataError(f"{where} has no role")
    return _ROLES.get(role, role)


def _message(role: str, turn: Mapping[str, Any], where: str) -> Message:
    if turn.keys() == _PLAIN and isinstance(turn["content"], str) and role != "tool":
        return Message(role, turn["content"])  # most are: nothing else to look for
    calls = turn.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise DataError(f"{where}.tool_calls should be a list")
    made = [call_of(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    if turn.get("function_call"):
        made.append(call_of(turn["function_call"], f"{where}.function_call"))
    thinking = next((turn[key] for key in _THINKING if turn.get(key) is not None), None)
    content = _content(role, turn, where, bool(made))
    return Message(
        role=role,
        content=content,
        thinking=None if thinking is None else text_of(thinking, f"{where}.reasoning_content"),
        tool_calls=tuple(made),
        tool_call_id=id_of(turn.get("tool_call_id"), f"{where}.tool_call_id"),
        name=id_of(turn.get("name"), f"{where}.name"),
        weight=_weight(turn, where),
        prefix=_prefix(turn.get("prefix"), role, content, where),
    )


def _prefix(value: Any, role: str, content: str | tuple[Part, ...], where: str) -> str:
    """How an answer begins that somebody else wrote: a text, or true for all of it."""
    if value is None or value is False or value == "":
        return ""
    prefix = content if value is True else value
    if role != "assistant" or not isinstance(prefix, str) or not isinstance(content, str):
        raise DataError(
            f"{where}.prefix should be the text with which an assistant's content begins, or true"
        )
    if not prefix:
        raise DataError(f"{where}.prefix is true and the content is empty: nothing to go on from")
    if not content.startswith(prefix):
        raise DataError(f"{where}.content does not begin with its prefix {prefix[:40]!r}")
    return prefix


def _content(
    role: str, turn: Mapping[str, Any], where: str, optional: bool
) -> str | tuple[Part, ...]:
    key = _content_key(turn)
    value = turn.get(key)
    if value is None and optional:
        return ""
    read = result_of if role == "tool" else content_of
    return read(value, f"{where}.{key}")


def _weight(turn: Mapping[str, Any], where: str) -> float | None:
    for key in ("loss", "loss_scale", "weight"):
        value = turn.get(key)
        if value is None:
            continue
        if isinstance(value, bool | int | float) and 0 <= value <= _HEAVIEST:
            return float(value)
        raise DataError(f"{where}.{key} should be true, false or a number from 0 to {_HEAVIEST:g}")
    return None
