"""``{"query": "...", "response": "..."}`` under the names that people give the two columns."""

from __future__ import annotations

from typing import Any

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Format, Row, text_of, unpacked
from swift.data.formats.messages import conversation
from swift.errors import DataError

_QUERY = ("query", "prompt", "question", "problem", "instruction", "input", "user", "问题", "提问")
_RESPONSE = (
    "response", "answer", "output", "completion", "target", "solution", "assistant", "回答", "答案",
)  # fmt: skip


def history(value: Any) -> list[Message]:
    """Earlier turns as pairs: ``[["question", "answer"], ...]``."""
    value = unpacked(value, "history")
    if not value:
        return []
    messages = []
    for i, pair in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError(f"history[{i}] should be a pair of texts")
        question, answer = (text_of(text, f"history[{i}]") for text in pair)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _columns(row: Row) -> tuple[str, str] | None:
    query = next((name for name in _QUERY if name in row), None)
    response = next((name for name in _RESPONSE if name in row), None)
    return (query, response) if query and response else None


def _read(row: Row) -> Conversation:
    columns = _columns(row)
    assert columns is not None
    query, response = columns
    turns = history(row.get("history"))
    turns.append(Message("user", text_of(row[query], query)))
    turns.append(Message("assistant", text_of(row[response], response)))
    return conversation(turns, row)


FORMAT = Format(
    "query",
    '{"query": ..., "response": ...}',
    lambda row: _columns(row) is not None,
    _read,
)
