"""``{"prompt": ..., "chosen": ..., "rejected": ...}``: two answers, one better than the other."""

from __future__ import annotations

import re
from typing import Any

from swift.chat.message import Message
from swift.data.formats.asked import asked, asked_in
from swift.data.formats.form import Format, Row, number_of
from swift.data.formats.meaning import Preference, common
from swift.data.formats.media import COLUMNS
from swift.data.formats.messages import conversation
from swift.data.formats.query import said
from swift.errors import DataError

_PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")  # a conversation in one text


def _columns(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all(name in row for name in pair)), None)


def answers(value: Any, column: str) -> list[Message]:
    """An answer as a text, a message or messages; or a whole conversation, also in one text."""
    if isinstance(value, str) and _SPEAKER.match(value):
        pieces = _SPEAKER.split(value)[1:]
        roles = ("user" if who == "Human" else "assistant" for who in pieces[::2])
        return [Message(*one) for one in zip(roles, map(str.strip, pieces[1::2]), strict=True)]
    return said(value, column, "assistant")


def whole(answer: list[Message], prompt: list[Message]) -> list[Message]:
    """An answer behind its prompt; a conversation that has its own stays as it is."""
    return answer if answer and answer[0].role != "assistant" else prompt + answer


def pair(
    row: Row, chosen: list[Message], rejected: list[Message], columns: tuple[str, str]
) -> Preference:
    """Two conversations as a preference.

    Args:
        row: for the columns beside them; ``rejected_images`` and the like come first for the
            second, and ``margin``.
        chosen: the better one.
        rejected: the worse one.
        columns: what errors call them.

    Raises:
        DataError: they are the same, have different prompts, or end in no answer.
    """
    first, second = columns
    if chosen == rejected:
        raise DataError(f"{first} and {second} are the same")
    shared = common(tuple(chosen), tuple(rejected))
    for name, messages in zip(columns, (chosen, rejected), strict=True):
        if not messages or messages[-1].role != "assistant":
            raise DataError(f"{name} should end in an assistant's answer")
        if messages[0].role == "assistant" and not shared:
            raise DataError(f"{first} and {second} have no prompt; put it into a column prompt")
        if messages[shared : shared + 1] == [] or messages[shared].role != "assistant":
            raise DataError(
                f"{first} and {second} answer different prompts: message {shared + 1} differs and "
                "is not the assistant's in both"
            )
    margin = row.get("margin")
    return Preference(
        conversation(chosen, row),
        conversation(rejected, of_rejected(row)),
        None if margin is None else number_of(margin, "margin"),
    )


def of_rejected(row: Row) -> Row:
    """The row as the rejected conversation sees it: ``rejected_images`` are its images ..."""
    own = {
        name: row[f"rejected_{name}"]
        for name in (*COLUMNS, "tools", "objects")
        if row.get(f"rejected_{name}")
    }
    return {**row, **own} if own else row


def _read(row: Row) -> Preference:
    columns = _columns(row)
    assert columns is not None
    chosen, rejected = (answers(row[name], name) for name in columns)
    prompt: list[Message] = []
    if any(one and one[0].role == "assistant" for one in (chosen, rejected)) and asked_in(row):
        prompt = asked(row)
        if prompt and prompt[-1].role == "assistant":
            raise DataError(f"{asked_in(row)[0]} should be the prompt; it ends in an answer")
    return pair(row, whole(chosen, prompt), whole(rejected, prompt), columns)


FORMAT = Format(
    "preference",
    '{"prompt": ..., "chosen": ..., "rejected": ...}',
    lambda row: _columns(row) is not None,
    _read,
    "preference",
)
