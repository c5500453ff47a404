"""``{"messages": [{"role": "user", "content": "..."}, ...]}``: OpenAI's form and most others'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.chat.message import Conversation, Message
from swift.data.formats.calls import tools
from swift.data.formats.form import Format, Row, text_of, unpacked
from swift.data.formats.meaning import SYSTEMS
from swift.data.formats.media import place_media
from swift.data.formats.objects import place_objects
from swift.data.formats.turns import turns
from swift.errors import DataError

COLUMNS = ("system", "system_prompt")


def conversation(messages: list[Message], row: Row) -> Conversation:
    """Messages with the columns that may stand beside them in any format.

    They are ``system``, ``tools``, ``chat_template_kwargs``, those of media, and ``objects``.

    Raises:
        DataError: one of these columns is wrong, or does not fit the messages.
    """
    system = next((name for name in COLUMNS if row.get(name)), None)
    if system and not (messages and messages[0].role in SYSTEMS):
        messages = [Message("system", text_of(row[system], system)), *messages]
    messages = place_objects(place_media(messages, row), row)
    return Conversation(tuple(messages), tools(row.get("tools")), _template_kwargs(row))


def _template_kwargs(row: Row) -> Mapping[str, Any]:
    value = unpacked(row.get("chat_template_kwargs"), "chat_template_kwargs") or {}
    if not isinstance(value, Mapping):
        raise DataError("chat_template_kwargs should be a JSON object")
    return value


FORMAT = Format(
    "messages",
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
    lambda row: "messages" in row,
    lambda row: conversation(turns(row["messages"], "messages"), row),
)
