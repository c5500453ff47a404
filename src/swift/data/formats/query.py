"""``{"query": "...", "response": "..."}`` under the names that people give the two columns."""

from __future__ import annotations

from typing import Any

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Format, Row, text_of, unpacked
from swift.data.formats.messages import conversation
from swift.data.formats.turns import turns
from swift.errors import DataError

QUERY = ("query", "prompt", "question", "problem", "instruction", "input", "user", "问题", "提问")
RESPONSE = (
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


def said(value: Any, column: str, role: str) -> list[Message]:
    """What a column says: a text in this role, a message, or a list of messages."""
    if isinstance(value, dict):
        return turns([value], column)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return turns(value, column)
    return [Message(role, text_of(value, column))]


def first_of(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of these columns that a row has."""
    return next((name for name in names if name in row), None)


def _read(row: Row) -> Conversation:
    query, response = first_of(row, QUERY), first_of(row, RESPONSE)
    assert query is not None and response is not None
    found = history(row.get("history"))
    found += said(row[query], query, "user")
    found += said(row[response], response, "assistant")
    return conversation(found, row)


FORMAT = Format(
    "query",
    '{"query": ..., "response": ...}',
    lambda row: first_of(row, QUERY) is not None and first_of(row, RESPONSE) is not None,
    _read,
)
