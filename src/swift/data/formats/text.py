"""``{"text": "..."}``: a document for pre-training."""

from __future__ import annotations

from swift.chat.message import Text
from swift.data.formats.form import Format, Row, text_of

_COLUMNS = ("text", "content", "document", "正文")


def _column(row: Row) -> str | None:
    return next((name for name in _COLUMNS if name in row), None)


def _read(row: Row) -> Text:
    column = _column(row)
    assert column is not None
    return Text(text_of(row[column], column))


FORMAT = Format("text", '{"text": ...}', lambda row: _column(row) is not None, _read)
