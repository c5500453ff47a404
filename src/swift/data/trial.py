"""A renderer on the rows of files: every property on every row, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from swift.chat.message import Conversation, Text
from swift.chat.properties import PROPERTIES, Reference, Result, Status, verify
from swift.chat.render import Renderer
from swift.chat.unanswered import verify_prompt
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.meaning import conversations, kind_of
from swift.data.source import Block
from swift.errors import DataError

_SHOWN = 5  # rows that are named for each status
_WORSE: tuple[Status, ...] = ("held", "refused", "violated")


@dataclass
class Tally:
    """What became of every property on many rows."""

    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """What the rows are: conversation, preference, prompt ..., or unreadable."""
    counts: Counter[tuple[str, Status]] = field(default_factory=Counter)
    examples: dict[Status, list[str]] = field(default_factory=dict)
    """Status -> the first few rows with it: place, property, why."""

    def add(self, place: str, kind: str, results: list[Result]) -> None:
        """Count a row."""
        self.rows += 1
        self.kinds[kind] += 1
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
    """Every property on every row, whatever task it is for.

    Of a row with several conversations the worst result counts. One that nobody answers in it has
    only those properties that speak of its prompt.

    Args:
        blocks: rows.
        renderer: what is tried.
        reference: transformers' rendering of the same checkpoint.
        settings: how rows are read.

    Raises:
        DataError: a file cannot be read at all.
    """
    tally = Tally()
    for block in blocks:
        for line, raw in zip(block.lines, block.rows, strict=True):
            results = _results(raw, renderer, reference, settings, block.source.path.parent)
            tally.add(block.source.place(line), *results)
    return tally


def _results(
    raw: bytes,
    renderer: Renderer,
    reference: Reference | None,
    settings: EncodeSettings,
    base: Path,
) -> tuple[str, list[Result]]:
    """What kind of row it is, and what became of the properties."""
    try:
        meaning = read_row(raw, settings, None, base)
    except (DataError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        return "unreadable", [Result(name, "refused", why) for name in PROPERTIES]
    if isinstance(meaning, Text):
        refused = [Result(name, "refused", "a plain text has no turns") for name in PROPERTIES]
        return kind_of(meaning), refused
    worst: dict[str, Result] = {}
    for conversation in conversations(meaning):
        for result in _tried(conversation, renderer, reference):
            kept = worst.setdefault(result.name, result)
            if _WORSE.index(result.status) > _WORSE.index(kept.status):
                worst[result.name] = result
    return kind_of(meaning), list(worst.values())


def _tried(
    conversation: Conversation, renderer: Renderer, reference: Reference | None
) -> list[Result]:
    answered = conversation.messages and conversation.messages[-1].role == "assistant"
    return (verify if answered else verify_prompt)(renderer, reference, conversation)
