"""What a format is, and how the one of a row is found: from its columns, never from a name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swift import registry
from swift.chat.message import Conversation, Text
from swift.errors import DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    ``matches`` looks at the columns; ``read`` gives their meaning and raises
    :class:`~swift.errors.DataError` with the column that is wrong.
    """

    name: str
    example: str
    matches: Callable[[Row], bool]
    read: Callable[[Row], Conversation | Text]


_BUILT_IN = ("messages", "conversations", "instruction", "query", "text")
for _name in _BUILT_IN:
    registry.register("format", _name, f"swift.data.formats.{_name}:FORMAT")


def formats() -> list[Format]:
    """All registered formats; a user's own come first."""
    names = list(registry.entries("format"))
    own = [name for name in names if name not in _BUILT_IN]
    return [registry.load("format", name) for name in (*own, *_BUILT_IN)]


def understand(row: Any, known: list[Format]) -> Conversation | Text:
    """What a row says.

    Raises:
        DataError: no format matches its columns, or its content is not what they promise.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"a row should be a JSON object, this is {_kind(row)}")
    for form in known:
        if form.matches(row):
            return form.read(row)
    raise DataError(_unknown(row, known))


def _unknown(row: Row, known: list[Format]) -> str:
    columns = ", ".join(map(str, row)) or "none"
    ranked = sorted(known, key=lambda form: -_likeness(row, form.example))
    return (
        f"columns not understood: {columns}; the closest known row is {ranked[0].example} "
        "(rename with --columns)"
    )


def _likeness(row: Row, example: str) -> float:
    return difflib.SequenceMatcher(None, " ".join(map(str, row)), example).ratio()


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true/false",
    }
    return names.get(type(value), "null")


def text_of(value: Any, column: str) -> str:
    """A column that must hold text."""
    if not isinstance(value, str):
        raise DataError(f"{column} should be text, this is {_kind(value)}")
    return value
