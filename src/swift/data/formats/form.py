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
from swift.data.formats.meaning import Meaning, conversations
from swift.errors import DataError

Row = Mapping[str, Any]

_MOST = 20  # columns that are named in an error ...
_LONGEST = 40  # ... and how much of each name
_LARGEST = 1e30  # a number above it is a mistake, or no number at all


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    ``matches`` looks at the columns; ``read`` gives their meaning and raises
    :class:`~swift.errors.DataError` with the column that is wrong. ``task`` is one of
    :data:`TASKS`: the same row may mean different things to different commands.
    """

    name: str
    example: str
    matches: Callable[[Row], bool]
    read: Callable[[Row], Meaning]
    task: str = "chat"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"format {self.name}: task {self.task!r} is not {', '.join(TASKS)}")


TASKS = {
    "chat": "a conversation",
    "preference": "a preference pair",
    "unpaired": "an answer with a judgement",
    "embedding": "a group of texts for an embedding",
    "ranking": "a query with documents",
    "relevance": "a query with documents",
    "classification": "a text with a label",
    "prompt": "a prompt without an answer",
    "steps": "an answer in steps, each with a label",
}
"""Task -> what a row is there."""

_BUILT_IN = (
    *("messages", "conversations", "instruction", "query", "caption", "text"),
    *("preference", "rejected", "unpaired", "embedding", "ranking", "relevance"),
    *("classification", "prompt", "steps"),
)
for _name in _BUILT_IN:
    registry.register("format", _name, f"swift.data.formats.{_name}:FORMAT")


def formats(task: str = "chat") -> list[Format]:
    """The registered formats of a task; a user's own come first."""
    names = list(registry.entries("format"))
    own = [name for name in names if name not in _BUILT_IN]
    known = [registry.load("format", name) for name in (*own, *_BUILT_IN)]
    return [form for form in known if form.task == task]


def understand(row: Any, known: list[Format]) -> Meaning:
    """What a row says.

    Raises:
        DataError: no format matches its columns, or its content is not what they promise.
    """
    row = _object(row)
    for form in known:
        if form.matches(row):
            return form.read(row)
    raise DataError(_unknown(row, known))


def understand_any(row: Any) -> Meaning:
    """What a row says, whatever it is for: the most that its columns promise.

    Raises:
        DataError: no format of any task can read it.
    """
    row = _object(row)
    wrong: dict[str, DataError] = {}
    less: Meaning | None = None
    for task in _ANY:
        form = next((form for form in formats(task) if form.matches(row)), None)
        if form is None or (task == "prompt" and wrong.keys() - _LABELLED and less is None):
            continue
        try:
            meaning = form.read(row)
        except DataError as error:
            wrong[task] = error
            continue
        if task != "chat" or _answered(meaning):
            return meaning
        less = less or meaning
    if less is not None:
        return less
    raise wrong.get("chat") or next(iter(wrong.values()), DataError(_unknown(row, formats())))


_ANY = ("preference", "unpaired", "embedding", "chat", "ranking", "classification", "prompt")
_LABELLED = {"unpaired", "classification"}  # a label may be anything


def _answered(meaning: Meaning) -> bool:
    found = conversations(meaning)
    return bool(found and found[0].messages and found[0].messages[-1].role == "assistant")


def _object(row: Any) -> Row:
    if not isinstance(row, Mapping):
        raise DataError(f"a row should be a JSON object, this is {kind_word(row)}")
    return row


def _unknown(row: Row, known: list[Format]) -> str:
    """Why no format matches, and what to write."""
    columns = tuple(str(name)[:_LONGEST] for name in islice(row, _MOST))
    task = known[0].task if known else "chat"
    closest = _closest(columns, tuple(form.example for form in known))
    for other in TASKS:
        form = next((form for form in formats(other) if form.matches(row)), None)
        if other == task or form is None:
            continue
        named = [name for name in columns if name in _names(form.example)] or list(columns)
        what = "a plain text" if form.name == "text" else TASKS[other]
        why = f"this row is {what} ({', '.join(named)}), not {TASKS[task]}"
        if task == "chat" and "chosen" in named:
            to = "messages" if _is_whole(row["chosen"]) else "response"
            return f'{why}: --columns \'{{"chosen": "{to}"}}\' learns the chosen answers alone'
        return f"{why}: {closest} (rename with --columns)"
    return (
        f"columns not understood: {', '.join(columns) or 'none'}; the closest known row is "
        f"{closest} (rename with --columns)"
    )


def _is_whole(answer: Any) -> bool:
    """Whether it is a conversation, not an answer alone."""
    first = answer[0] if isinstance(answer, list) and answer else None
    role = first.get("role", first.get("from")) if isinstance(first, Mapping) else None
    return role in ("system", "user", "human")


def _names(example: str) -> list[str]:
    return re.findall(r'"([^"]+)":', example)


@lru_cache(maxsize=64)  # a file has the same columns in every row
def _closest(columns: tuple[str, ...], examples: tuple[str, ...]) -> str:
    def likeness(example: str) -> float:
        """How near the columns come to names in the example, on average."""
        names = _names(example) or [""]
        near = [max(SequenceMatcher(None, c, name).ratio() for name in names) for c in columns]
        return sum(near) / max(len(near), 1)

    return max(examples, key=likeness, default="none")


def kind_word(value: Any) -> str:
    """What a value of JSON is, for a person."""
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
        raise DataError(f"{column} should be text, this is {kind_word(value)}")
    return value


def number_of(value: Any, column: str) -> float:
    """A column that must hold a number, or its text, as tables have it; true is 1, false 0."""
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, int | float) and abs(number) <= _LARGEST:
        return float(number)
    raise DataError(f"{column} should be a number, this is {_shown(value)}")


def list_of(value: Any, column: str) -> list[Any]:
    """A column that must hold a list, or the JSON text of one."""
    value = unpacked(value, column)
    if not isinstance(value, list):
        raise DataError(f"{column} should be a list, this is {kind_word(value)}")
    return value


def _shown(value: Any) -> str:
    return "too large or none at all" if isinstance(value, int | float) else kind_word(value)


def unpacked(value: Any, column: str) -> Any:
    """A column that may hold the JSON text of what it means, as tables have it."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError(f"{column}: not JSON: {error}") from None
