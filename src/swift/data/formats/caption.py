"""``{"image": "...", "text": "..."}``: media with a question and its answer, or what they show."""

from __future__ import annotations

from swift.chat.message import KINDS, Conversation, Message
from swift.data.formats.form import Format, Row, text_of
from swift.data.formats.media import has_media
from swift.data.formats.messages import conversation
from swift.data.formats.query import RESPONSE, first_of

_TEXTS = ("text", "caption", "transcription", "transcript", "sentence")


def _matches(row: Row) -> bool:
    return first_of(row, _TEXTS) is not None and any(has_media(row, kind) for kind in KINDS)


def _read(row: Row) -> Conversation:
    text, answer = first_of(row, _TEXTS), first_of(row, RESPONSE)
    assert text is not None
    asked, shown = ("", text) if answer is None else (text_of(row[text], text), answer)
    turns = [Message("user", asked), Message("assistant", text_of(row[shown], shown))]
    return conversation(turns, row)


FORMAT = Format("caption", '{"image": ..., "caption": ...}', _matches, _read)
