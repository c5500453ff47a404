"""A conversation of any form with ``rejected_response`` or ``rejected_messages`` beside it."""

from __future__ import annotations

from typing import Any

from swift.chat.message import Message
from swift.data.formats.asked import answer_in, asked, asked_in, is_answered
from swift.data.formats.form import Format, Row
from swift.data.formats.meaning import Preference
from swift.data.formats.preference import answers, pair, whole
from swift.data.formats.query import said
from swift.data.formats.turns import turns
from swift.errors import DataError

_MESSAGES, _RESPONSE = "rejected_messages", "rejected_response"


def _chosen(row: Row) -> tuple[list[Message], str]:
    """The messages of the row, and the column of the answer."""
    columns = asked_in(row)
    found = asked(row)
    if column := answer_in(row):
        return found + said(row[column], column, "assistant"), column
    return found, columns[0]


def _without_answer(messages: list[Message], value: Any) -> list[Message]:
    """What a rejected answer stands behind: messages take the place of all since the last user."""
    end = len(messages) - 1
    if isinstance(value, list):
        asks = [i for i, message in enumerate(messages) if message.role == "user"]
        end = asks[-1] + 1 if asks else 0
    return messages[:end]


def _read(row: Row) -> Preference:
    chosen, column = _chosen(row)
    if not chosen or chosen[-1].role != "assistant":
        raise DataError(f"{column} should end in the assistant's answer")
    if row.get(_MESSAGES) is not None:
        rejected = turns(row[_MESSAGES], _MESSAGES)
        before = _without_answer(chosen, row[_MESSAGES])
        return pair(row, chosen, whole(rejected, before), (column, _MESSAGES))
    value = row.get(_RESPONSE)
    rejected = whole(answers(value, _RESPONSE), _without_answer(chosen, value))
    return pair(row, chosen, rejected, (column, _RESPONSE))


FORMAT = Format(
    "rejected",
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}], '
    '"rejected_response": ...}',
    lambda row: (_MESSAGES in row or _RESPONSE in row) and is_answered(row),
    _read,
    "preference",
)
