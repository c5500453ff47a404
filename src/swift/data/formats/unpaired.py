"""A conversation of any form with ``label`` or ``kto_tag``: true for a good answer, else false."""

from __future__ import annotations

from swift.data.formats.asked import answered, is_answered
from swift.data.formats.form import Format, Row, kind_word
from swift.data.formats.meaning import Unpaired
from swift.data.formats.query import first_of
from swift.errors import DataError

_LABELS = ("kto_tag", "label")
_WORDS = {"true": True, "True": True, "false": False, "False": False}  # as tables write them


def _read(row: Row) -> Unpaired:
    column = first_of(row, _LABELS)
    assert column is not None
    label = _WORDS.get(row[column], row[column]) if isinstance(row[column], str) else row[column]
    if not isinstance(label, bool):
        raise DataError(f"{column} should be true or false, this is {kind_word(label)}")
    return Unpaired(answered(row), label)


FORMAT = Format(
    "unpaired",
    '{"prompt": ..., "completion": ..., "label": true}',
    lambda row: first_of(row, _LABELS) is not None and is_answered(row),
    _read,
    "unpaired",
)
