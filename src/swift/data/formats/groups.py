"""A text with those that belong to it and those that do not, in the columns of such rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Row, list_of
from swift.data.formats.media import COLUMNS
from swift.data.formats.messages import conversation
from swift.data.formats.query import first_of, said
from swift.data.formats.turns import turns
from swift.errors import DataError

Group = tuple[Conversation, tuple[Conversation, ...], tuple[Conversation, ...]]
"""Anchor, positives, negatives."""

_ANCHORS = ("anchor", "query", "question", "sentence", "prompt")
_POSITIVE = re.compile(r"(positives?|pos)(_\d+)?")
_NEGATIVE = re.compile(r"(negatives?|neg|hard_negatives?)(_\d+)?")


def _named(row: Row, names: re.Pattern[str]) -> list[str]:
    return [name for name in row if names.fullmatch(name)]


def is_group(row: Row) -> bool:
    """Whether a row has an anchor and what belongs to it."""
    if "messages" in row:
        return "positive_messages" in row or "negative_messages" in row
    return first_of(row, _ANCHORS) is not None and bool(
        _named(row, _POSITIVE) or _named(row, _NEGATIVE)
    )


def group(row: Row) -> Group:
    """Anchor, positives, negatives; these are user's messages, as texts have no speaker.

    Raises:
        DataError: one of them is no text and no conversation.
    """
    if "messages" in row:
        return anchor_of(row), _talks(row, "positive"), _talks(row, "negative")
    positives = [text for name in _named(row, _POSITIVE) for text in texts(row[name], name)]
    negatives = [text for name in _named(row, _NEGATIVE) for text in texts(row[name], name)]
    return anchor_of(row), tuple(positives), tuple(negatives)


def anchor_of(row: Row) -> Conversation:
    """The text that others are held against, or ``messages``."""
    if "messages" in row:
        return conversation(turns(row["messages"], "messages"), row)
    name = first_of(row, _ANCHORS)
    assert name is not None
    return conversation(said(row[name], name, "user"), row)


def said_alone(text: str) -> Conversation:
    """A text as a conversation of one user's message."""
    return Conversation((Message("user", text),))


def has_anchor(row: Row) -> bool:
    """Whether there is one."""
    return "messages" in row or first_of(row, _ANCHORS) is not None


def texts(value: Any, column: str) -> list[Conversation]:
    """A text or a list of them; each may also be a conversation."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [_spoken(said(value, column, "user"), {})]
    return [_spoken(_one(one, f"{column}[{i}]"), {}) for i, one in enumerate(value)]


def _one(value: Any, where: str) -> list[Message]:
    return turns(value, where) if isinstance(value, list) else said(value, where, "user")


def _talks(row: Row, side: str) -> tuple[Conversation, ...]:
    """``positive_messages`` or ``negative_messages``: a list of conversations, or one alone."""
    column = f"{side}_messages"
    value = list_of(row.get(column) or [], column)
    if value and all(isinstance(turn, dict) for turn in value):
        return (_spoken(turns(value, column), _beside(row, side, None)),)
    return tuple(
        _spoken(turns(one, f"{column}[{i}]"), _beside(row, side, i)) for i, one in enumerate(value)
    )


def _beside(row: Row, side: str, at: int | None) -> Row:
    """The columns of media of one conversation: of a list of lists the one with its number."""
    found = {}
    for name in COLUMNS:
        value = row.get(f"{side}_{name}")
        if value and at is not None:
            values = list_of(value, f"{side}_{name}")
            if at >= len(values):
                raise DataError(f"{side}_{name} holds {len(values)}, {side}_messages more")
            value = values[at]
        if value:
            found[name] = value
    return found


def _spoken(messages: Iterable[Message], beside: Row) -> Conversation:
    """Messages whose last one is a user's, also where it is written as an answer."""
    found = list(messages)
    if (
        found
        and found[-1].role == "assistant"
        and len([m for m in found if m.role != "system"]) == 1
    ):
        found[-1] = Message("user", found[-1].content)
    return conversation(found, beside)
