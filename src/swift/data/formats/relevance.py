"""The rows of rankings, each document asked about in a turn of its own: is it relevant?"""

from __future__ import annotations

from dataclasses import replace

from swift.data.formats import ranking
from swift.data.formats.form import Format, Row
from swift.data.formats.meaning import Ranking


def _read(row: Row) -> Ranking:
    found = ranking.FORMAT.read(row)
    assert isinstance(found, Ranking)
    return replace(found, asked=True)


FORMAT = Format("relevance", ranking.FORMAT.example, ranking.FORMAT.matches, _read, "relevance")
