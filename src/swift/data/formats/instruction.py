"""``{"instruction": "...", "input": "...", "output": "..."}``: the form of Alpaca."""

from __future__ import annotations

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Format, Row, text_of
from swift.data.formats.messages import conversation
from swift.data.formats.query import RESPONSE, first_of, history


def instructed(row: Row) -> list[Message]:
    """What is asked: the instruction, and its input below it."""
    task = text_of(row["instruction"], "instruction")
    given = text_of(row.get("input") or "", "input")
    return [Message("user", f"{task}\n{given}" if task and given else task or given)]


def answer_column(row: Row) -> str | None:
    """The column of the answer; beside an input it may have any of the usual names."""
    return first_of(row, ("output", *RESPONSE) if "input" in row else ("output",))


def _read(row: Row) -> Conversation:
    answer = answer_column(row)
    assert answer is not None
    turns = history(row.get("history")) + instructed(row)
    turns.append(Message("assistant", text_of(row[answer], answer)))
    return conversation(turns, row)


FORMAT = Format(
    "instruction",
    '{"instruction": ..., "input": ..., "output": ...}',
    lambda row: "instruction" in row and answer_column(row) is not None,
    _read,
)
