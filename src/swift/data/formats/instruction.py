"""``{"instruction": "...", "input": "...", "output": "..."}``: the form of Alpaca."""

from __future__ import annotations

from swift.chat.message import Conversation, Message
from swift.data.formats.form import Format, Row, text_of
from swift.data.formats.messages import conversation
from swift.data.formats.query import history


def _read(row: Row) -> Conversation:
    task = text_of(row["instruction"], "instruction")
    given = text_of(row.get("input") or "", "input")
    question = f"{task}\n{given}" if task and given else task or given
    turns = history(row.get("history"))
    turns += [Message("user", question), Message("assistant", text_of(row["output"], "output"))]
    return conversation(turns, row)


FORMAT = Format(
    "instruction",
    '{"instruction": ..., "input": ..., "output": ...}',
    lambda row: "instruction" in row and "output" in row,
    _read,
)
