"""``{"prompt": "...", ...}``: what is to be answered, and whatever a reward function needs."""

from __future__ import annotations

from typing import Any

from swift.chat.message import Message
from swift.data.formats.asked import BESIDE, asked, asked_in
from swift.data.formats.form import Format, Row
from swift.data.formats.meaning import Prompt
from swift.data.formats.messages import conversation
from swift.errors import DataError


def _read(row: Row) -> Prompt:
    columns = asked_in(row)
    messages = asked(row)
    extra = {name: row[name] for name in row if name not in BESIDE and name not in columns}
    if messages and messages[-1].role == "assistant":
        extra.setdefault("response", _plain(messages.pop()))
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError(f"{columns[0]} has no message of a user or a tool to answer")
    return Prompt(conversation(messages, row), extra)


def _plain(answer: Message) -> Any:
    """An answer as its text, where it is no more than that."""
    plain = isinstance(answer.content, str) and not answer.tool_calls and answer.thinking is None
    return answer.content if plain else answer.for_template()


FORMAT = Format(
    "prompt",
    '{"prompt": ..., "solution": ...}',
    lambda row: asked_in(row) != (),
    _read,
    "prompt",
)
