"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: the form of ShareGPT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Format, Row, text_of, unpacked
from swift.data.formats.messages import call_of, conversation, message_of, role_of
from swift.errors import DataError

_COLUMNS = ("conversations", "conversation", "dialog", "dialogue")


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} should be a JSON object with from and value")
    if "role" in turn and "content" in turn:
        return message_of(turn, where)
    value = text_of(turn.get("value"), f"{where}.value")
    if turn.get("from") == "function_call":
        return Message("assistant", tool_calls=(call_of(unpacked(value, f"{where}.value"), where),))
    return Message(role_of(turn.get("from"), where), value)


def _column(row: Row) -> str | None:
    return next((name for name in _COLUMNS if isinstance(row.get(name), list)), None)


def _read(row: Row) -> Conversation:
    column = _column(row)
    assert column is not None
    return conversation([_turn(t, f"{column}[{i}]") for i, t in enumerate(row[column])], row)


FORMAT = Format(
    "conversations",
    '{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}',
    lambda row: _column(row) is not None,
    _read,
)
