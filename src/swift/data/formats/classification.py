"""A text or conversation with ``label``: its class, several of them, or a number to predict."""

from __future__ import annotations

import json
from typing import Any

from swift.chat.message import Conversation
from swift.data.formats.asked import TEXTS, answered, asked, asked_in, is_answered, plain_text
from swift.data.formats.form import Format, Row, kind_word, number_of
from swift.data.formats.meaning import Classification
from swift.data.formats.messages import conversation
from swift.data.formats.query import first_of
from swift.errors import DataError

_LABELS = ("label", "labels")


def _label(value: Any, column: str) -> int | float | tuple[int, ...] | tuple[float, ...]:
    """Whole numbers are classes, others are what they are."""
    value = _parsed(value)
    if isinstance(value, list):
        numbers = [number_of(one, f"{column}[{i}]") for i, one in enumerate(value)]
        if all(isinstance(one, int) for one in value):
            return tuple(_class(int(one), column) for one in value)
        return tuple(numbers)
    if not isinstance(value, int | float):
        raise DataError(
            f"{column} should be the number of a class (0, 1, ...), a list of them, or what is to "
            f"be predicted, this is {kind_word(value)}"
        )
    number = number_of(value, column)
    return _class(int(value), column) if isinstance(value, int) else number


def _parsed(value: Any) -> Any:
    """Numbers and lists may be text, as tables have them."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _class(number: int, column: str) -> int:
    if number < 0:
        raise DataError(f"{column} should be the number of a class from 0, this is {number}")
    return number


def _conversation(row: Row) -> Conversation:
    if "messages" not in row and is_answered(row):
        return answered(row)
    if asked_in(row):
        return conversation(asked(row), row)
    messages = plain_text(row, TEXTS)
    assert messages is not None
    return conversation(messages, row)


def _matches(row: Row) -> bool:
    return first_of(row, _LABELS) is not None and bool(
        asked_in(row) or first_of(row, TEXTS) is not None
    )


def _read(row: Row) -> Classification:
    column = first_of(row, _LABELS)
    assert column is not None
    label = _label(row[column], column)
    talk = _conversation(row)
    if not talk.messages:
        raise DataError("there are no messages")
    return Classification(talk, label)


FORMAT = Format("classification", '{"text": ..., "label": 1}', _matches, _read, "classification")
