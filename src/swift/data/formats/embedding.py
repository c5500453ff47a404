"""``{"anchor": ..., "positive": ..., "negative": ...}``, or two sentences with a score."""

from __future__ import annotations

from swift.data.formats.form import Format, Row, number_of, text_of
from swift.data.formats.groups import (
    Group,
    anchor_of,
    group,
    has_anchor,
    is_group,
    said_alone,
    texts,
)
from swift.data.formats.meaning import Embedding
from swift.data.formats.query import RESPONSE, first_of
from swift.errors import DataError

_SENTENCES = (("sentence1", "sentence2"), ("sentence_A", "sentence_B"), ("text1", "text2"))
_SCORES = ("score", "label", "similarity", "similarity_score")


def _sentences(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in _SENTENCES if all(name in row for name in pair)), None)


def _answers(row: Row) -> str | None:
    """The column of a response that has a list of wrong ones beside it."""
    wrong = isinstance(row.get("rejected_response"), list) and has_anchor(row)
    return first_of(row, RESPONSE) if wrong and "messages" not in row else None


def _group(row: Row) -> Group:
    if (pair := _sentences(row)) is not None:
        one, other = (said_alone(text_of(row[name], name)) for name in pair)
        return one, (other,), ()
    if (response := _answers(row)) is not None:
        wrong = texts(row["rejected_response"], "rejected_response")
        return anchor_of(row), tuple(texts(row[response], response)), tuple(wrong)
    return group(row)


def _read(row: Row) -> Embedding:
    anchor, positives, negatives = _group(row)
    if not positives:
        raise DataError("there is no positive: nothing should lie near the anchor")
    column = first_of(row, _SCORES)
    value = row[column] if column else None
    if column is None or value is None:
        return Embedding(anchor, positives, negatives)
    if len(positives) > 1 or negatives:
        raise DataError(f"{column} is for an anchor with one positive alone")
    return Embedding(anchor, positives, negatives, number_of(value, column))


FORMAT = Format(
    "embedding",
    '{"anchor": ..., "positive": ..., "negative": ...}',
    lambda row: _sentences(row) is not None or _answers(row) is not None or is_group(row),
    _read,
    "embedding",
)
