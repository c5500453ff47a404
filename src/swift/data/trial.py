"""A renderer on the rows of files: every property on every row, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from swift.chat.message import Text
from swift.chat.properties import PROPERTIES, Reference, Result, Status, verify
from swift.chat.render import Renderer
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import Format, formats
from swift.data.source import Block
from swift.errors import DataError

_SHOWN = 5  # rows that are named for each status


@dataclass
class Tally:
    """What became of every property on many rows."""

    rows: int = 0
    counts: Counter[tuple[str, Status]] = field(default_factory=Counter)
    examples: dict[Status, list[str]] = field(default_factory=dict)
    """Status -> the first few rows with it: place, property, why."""

    def add(self, place: str, results: list[Result]) -> None:
        """Count a row."""
        self.rows += 1
        for result in results:
            self.counts[result.name, result.status] += 1
        for status in ("violated", "refused"):
            first = next((result for result in results if result.status == status), None)
            shown = self.examples.setdefault(status, [])
            if first and len(shown) < _SHOWN:
                shown.append(f"{place}: {first.name}: {first.why}")

    @property
    def violated(self) -> int:
        """Checks that failed."""
        return sum(count for (_, status), count in self.counts.items() if status == "violated")


def try_rows(
    blocks: Iterable[Block],
    renderer: Renderer,
    reference: Reference | None,
    settings: EncodeSettings,
) -> Tally:
    """Every property on every row.

    Args:
        blocks: rows.
        renderer: what is tried.
        reference: transformers' rendering of the same checkpoint.
        settings: how rows are read.

    Raises:
        DataError: a file cannot be read at all.
    """
    tally, known = Tally(), formats()
    for block in blocks:
        for line, raw in zip(block.lines, block.rows, strict=True):
            results = _results(raw, renderer, reference, settings, known)
            tally.add(block.source.place(line), results)
    return tally


def _results(
    raw: bytes,
    renderer: Renderer,
    reference: Reference | None,
    settings: EncodeSettings,
    known: list[Format],
) -> list[Result]:
    try:
        meaning = read_row(raw, settings, known)
    except (DataError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        return [Result(name, "refused", why) for name in PROPERTIES]
    if isinstance(meaning, Text):
        return [Result(name, "refused", "a plain text has no turns") for name in PROPERTIES]
    return verify(renderer, reference, meaning)
