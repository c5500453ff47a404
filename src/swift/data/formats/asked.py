"""What a row asks, in any of the forms of a conversation, without its answer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from swift import registry
from swift.chat.message import Conversation, Message
from swift.data.formats import media, messages
from swift.data.formats.conversations import read_turns, talk_column
from swift.data.formats.form import Format, Row, text_of
from swift.data.formats.instruction import answer_column, instructed
from swift.data.formats.query import QUERY, RESPONSE, first_of, history, said
from swift.data.formats.turns import turns
from swift.errors import DataError

TEXTS = ("text", "sentence", "content", "review")
BESIDE = frozenset((*messages.COLUMNS, *media.COLUMNS, "tools", "objects", "chat_template_kwargs"))
"""Columns that belong to a conversation of any form."""


def asked_in(row: Row) -> tuple[str, ...]:
    """The columns that hold what is asked; none where there are none."""
    if "messages" in row:
        return ("messages",)
    if talk := talk_column(row):
        return (talk,)
    instructed_by = "instruction" in row and ("input" in row or "output" in row)
    query = "instruction" if instructed_by else first_of(row, QUERY)
    beside = (*(("input",) if query == "instruction" else ()), "history")
    return (query, *(name for name in beside if name in row)) if query else ()


def answer_in(row: Row) -> str | None:
    """The column of the answer, where it is not that of what is asked."""
    first = asked_in(row)[0]
    if first in ("messages", talk_column(row)):
        return None
    return (answer_column(row) if first == "instruction" else None) or first_of(row, RESPONSE)


def asked(row: Row) -> list[Message]:
    """What is asked, as messages; an answer at the end of ``messages`` is among them."""
    columns = asked_in(row)
    assert columns
    if columns[0] == "messages":
        return turns(row["messages"], "messages")
    if columns[0] == talk_column(row):
        return read_turns(row, columns[0])
    before = history(row.get("history"))
    if columns[0] == "instruction":
        return before + instructed(row)
    return before + said(row[columns[0]], columns[0], "user")


@cache
def _talks() -> tuple[Format, ...]:
    names = ("messages", "conversations", "instruction", "query")
    return tuple(registry.load("format", name) for name in names)


def is_answered(row: Row) -> bool:
    """Whether the columns are those of a conversation with its answers."""
    return any(form.matches(row) for form in _talks())


def answered(row: Row) -> Conversation:
    """The conversation of such a row.

    Raises:
        DataError: its last message is no answer.
    """
    found = next(form for form in _talks() if form.matches(row)).read(row)
    assert isinstance(found, Conversation)
    if not found.messages or found.messages[-1].role != "assistant":
        raise DataError("the last message should be the assistant's answer")
    return found


def plain_text(row: Row, columns: Iterable[str]) -> list[Message] | None:
    """The first of these columns as a user's message."""
    name = next((name for name in columns if name in row), None)
    return [Message("user", text_of(row[name], name))] if name else None
