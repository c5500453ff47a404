"""Images, videos and sounds of a row: in columns of their own, with marks where they stand.

``<image>``, ``<video>`` and ``<audio>`` in a text are marks when the row has such a column, and
text when it has none. Without any mark the media stand before the first user's text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.chat.message import KINDS, Conversation, Kind, Media, Message, Part
from swift.data.formats.form import Row, kind_word
from swift.errors import DataError

COLUMNS = tuple(name for kind in KINDS for name in (kind, f"{kind}s"))
_KEYS = ("url", "path", "file", "image", "video", "audio")


def has_media(row: Row, kind: Kind) -> bool:
    """Whether a row has a column of this kind with something in it."""
    return bool(row.get(kind) or row.get(f"{kind}s"))


def media_of(row: Row, kind: Kind) -> list[Media]:
    """The media of one kind in the columns of a row.

    A list in the list is one video by its frames.
    """
    column = next((name for name in (f"{kind}s", kind) if row.get(name)), None)
    if column is None:
        return []
    value = row[column]
    if not isinstance(value, list):
        return [Media(kind, source_of(value, column, kind))]
    return [Media(kind, part_source(one, f"{column}[{i}]", kind)) for i, one in enumerate(value)]


def part_source(value: Any, where: str, kind: Kind) -> str | tuple[str, ...]:
    """Where a medium lies; a video may be a list of frames."""
    if kind == "video" and isinstance(value, list) and value:
        return tuple(source_of(one, f"{where}[{i}]", kind) for i, one in enumerate(value))
    return source_of(value, where, kind)


def source_of(value: Any, where: str, kind: Kind) -> str:
    """Where a medium lies: a path, an address, or a ``data:`` URL with the medium itself.

    Raises:
        DataError: it is none of these.
    """
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, Mapping):
        for key in ("bytes", "base64", "data"):
            if value.get(key) is not None:
                return _data_url(value[key], f"{where}.{key}", value, kind)
        for key in _KEYS:
            if isinstance(value.get(key), str | Mapping) and value[key]:
                return source_of(value[key], f"{where}.{key}", kind)
        if isinstance(value.get("source"), Mapping):
            return source_of(value["source"], f"{where}.source", kind)
        raise DataError(f"{where} has none of url, path, bytes and base64")
    raise DataError(f"{where} should be a path, an address or an object, this is {_word(value)}")


def _word(value: Any) -> str:
    return "empty" if isinstance(value, str) else kind_word(value)


def _data_url(value: Any, where: str, medium: Mapping[str, Any], kind: Kind) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} should be the text of base64, this is {kind_word(value)}")
    if value.startswith("data:"):
        return value
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: not base64: {error}") from None
    media_type = medium.get("media_type")
    if not isinstance(media_type, str):
        form = medium.get("format")
        media_type = f"{kind}/{form}" if isinstance(form, str) else ""
    return f"data:{media_type};base64,{value}"


EMPTY = ""
"""The source of a part such as ``{"type": "image"}``, whose medium is in a column."""


def place_media(messages: Sequence[Message], row: Row) -> list[Message]:
    """Messages with the media of the row's columns where they are marked.

    Raises:
        DataError: there are more or fewer media than marks.
    """
    placed = list(messages)
    if row.keys().isdisjoint(COLUMNS) and all(isinstance(m.content, str) for m in placed):
        return placed
    unmarked: list[Part] = []
    for kind in KINDS:
        media = media_of(row, kind)
        marks = _count(placed, kind, in_texts=bool(media))
        if media and not marks:
            unmarked += media
        elif len(media) != marks:
            raise DataError(
                f"{kind}s: {len(media)} given, {marks} marked with <{kind}> in the messages; both "
                "should be the same number"
            )
        elif marks:
            coming = iter(media)
            placed = [replace(m, content=_filled(m.content, kind, coming)) for m in placed]
    return _before_user(placed, unmarked) if unmarked else placed


def located(conversation: Conversation, base: Path) -> Conversation:
    """A conversation whose relative paths begin at a folder, or where swift was started."""
    if not conversation.media:
        return conversation

    def at(source: str) -> str:
        if source.startswith("data:") or "://" in source:
            return source
        beside = base / source
        return str(beside) if beside.exists() or not Path(source).exists() else source

    def found(part: Part) -> Part:
        if not isinstance(part, Media):
            return part
        many = not isinstance(part.source, str)
        return replace(part, source=tuple(map(at, part.source)) if many else at(str(part.source)))

    messages = tuple(
        m if isinstance(m.content, str) else replace(m, content=tuple(map(found, m.content)))
        for m in conversation.messages
    )
    return replace(conversation, messages=messages)


def _count(messages: Sequence[Message], kind: Kind, *, in_texts: bool) -> int:
    count = 0
    for message in messages:
        for part in _parts(message.content):
            if isinstance(part, str):
                count += part.count(f"<{kind}>") if in_texts else 0
            else:
                count += part == Media(kind, EMPTY)
    return count


def _parts(content: str | tuple[Part, ...]) -> tuple[Part, ...]:
    return (content,) if isinstance(content, str) else content


def _filled(
    content: str | tuple[Part, ...], kind: Kind, coming: Iterator[Media]
) -> str | tuple[Part, ...]:
    """Content with the next media in the place of its marks."""
    parts: list[Part] = []
    for part in _parts(content):
        if isinstance(part, str):
            pieces = split_at(part, (f"<{kind}>",))
            parts += [next(coming) if mark else piece for piece, mark in pieces]
        else:
            parts.append(next(coming) if part == Media(kind, EMPTY) else part)
    return plain(parts)


def split_at(text: str, marks: tuple[str, ...]) -> list[tuple[str, bool]]:
    """A text as pieces and marks in order; no piece is empty."""
    pieces = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]


def plain(parts: Sequence[Part]) -> str | tuple[Part, ...]:
    """Parts as content: text, where they are text alone."""
    if all(isinstance(part, str) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    return tuple(parts)


def _before_user(messages: list[Message], media: list[Part]) -> list[Message]:
    at = next((i for i, message in enumerate(messages) if message.role == "user"), None)
    if at is None:
        raise DataError("there are media, and no user's message where they could stand")
    content = tuple(part for part in _parts(messages[at].content) if part != "")
    messages[at] = replace(messages[at], content=(*media, *content))
    return messages
