"""``{"conversations": [{"from": "human", "value": "..."}, ...]}``: the form of ShareGPT."""

from __future__ import annotations

from swift.chat.message import Message
from swift.data.formats.form import Format, Row
from swift.data.formats.messages import conversation
from swift.data.formats.turns import turns

_COLUMNS = ("conversations", "conversation", "dialog", "dialogue")


def talk_column(row: Row) -> str | None:
    """The column with the list of turns."""
    return next((name for name in _COLUMNS if isinstance(row.get(name), list)), None)


def read_turns(row: Row, column: str) -> list[Message]:
    """The messages in it."""
    return turns(row[column], column, "from and value")


FORMAT = Format(
    "conversations",
    '{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}',
    lambda row: talk_column(row) is not None,
    lambda row: conversation(read_turns(row, talk_column(row) or ""), row),
)
