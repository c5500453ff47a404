"""``{"query": ..., "documents": [...], "labels": [...]}``, or positive and negative documents."""

from __future__ import annotations

from swift.data.formats.form import Format, Row, list_of, number_of
from swift.data.formats.groups import anchor_of, group, has_anchor, is_group, texts
from swift.data.formats.meaning import Ranking
from swift.data.formats.query import first_of
from swift.errors import DataError

_DOCUMENTS = (
    *("documents", "docs", "passages", "candidates"),
    *("document", "doc", "passage"),
)
_LABELS = ("labels", "label", "scores", "score", "relevance")


def _columns(row: Row) -> tuple[str, str] | None:
    documents, labels = first_of(row, _DOCUMENTS), first_of(row, _LABELS)
    return (documents, labels) if documents and labels and has_anchor(row) else None


def _read(row: Row) -> Ranking:
    columns = _columns(row)
    if columns is None:
        query, positives, negatives = group(row)
        found, labels = (*positives, *negatives), [1.0] * len(positives) + [0.0] * len(negatives)
    else:
        documents, column = columns
        query, found = anchor_of(row), tuple(texts(row[documents], documents))
        if isinstance(row[documents], list):
            values = list_of(row[column], column)
            labels = [number_of(one, f"{column}[{i}]") for i, one in enumerate(values)]
        else:
            labels = [number_of(row[column], column)]
        if len(found) != len(labels):
            raise DataError(f"{documents} holds {len(found)}, {column} {len(labels)}")
    if not found:
        raise DataError("there are no documents")
    return Ranking(query, found, tuple(labels))


FORMAT = Format(
    "ranking",
    '{"query": ..., "documents": [..., ...], "labels": [1, 0]}',
    lambda row: _columns(row) is not None or is_group(row),
    _read,
    "ranking",
)
