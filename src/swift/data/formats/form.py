"""What a format is, and how the one of a row is found: from its columns, never from a name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import Any

from swift import registry
from swift.chat.message import Conversation, Text
from swift.errors import DataError

Row = Mapping[str, Any]

_MOST = 20  # columns that are named in an error ...
_LONGEST = 40  # ... and how much of each name


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
    columns = tuple(str(name)[:_LONGEST] for name in islice(row, _MOST))
    raise DataError(_unknown(columns, tuple(form.example for form in known)))


@lru_cache(maxsize=64)  # a file has the same columns in every row
def _unknown(columns: tuple[str, ...], examples: tuple[str, ...]) -> str:
    def likeness(example: str) -> float:
        """How near the columns come to names in the example, on average."""
        names = re.findall(r'"([^"]+)":', example) or [""]
        near = [max(SequenceMatcher(None, c, name).ratio() for name in names) for c in columns]
        return sum(near) / max(len(near), 1)

    return (
        f"columns not understood: {', '.join(columns) or 'none'}; the closest known row is "
        f"{max(examples, key=likeness)} (rename with --columns)"
    )


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
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


def unpacked(value: Any, column: str) -> Any:
    """A column that may hold the JSON text of what it means, as tables have it."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{column}: not JSON: {error}") from None
