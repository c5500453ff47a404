"""``objects``: names and boxes in images, at the marks ``<ref-object>`` and ``<bbox>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from swift.chat.message import Box, Media, Message, Part, Ref, Scale
from swift.data.formats.form import Row, list_of, number_of, text_of, unpacked
from swift.data.formats.media import plain, split_at
from swift.errors import DataError

_REF, _BOX = "<ref-object>", "<bbox>"
_SCALES: dict[Any, Scale] = {
    None: "real", "real": "real", "norm1": "norm1", "norm1000": "norm1000",
}  # fmt: skip


def place_objects(messages: Sequence[Message], row: Row) -> list[Message]:
    """Messages with the row's names and boxes where they are marked.

    Raises:
        DataError: there are more or fewer of them than marks, or a box is none.
    """
    objects = unpacked(row.get("objects"), "objects")
    if not objects:
        return list(messages)
    if not isinstance(objects, Mapping):
        raise DataError("objects should be a JSON object with ref and bbox")
    refs = [
        text_of(ref, f"objects.ref[{i}]")
        for i, ref in enumerate(list_of(objects.get("ref") or [], "objects.ref"))
    ]
    boxes = _boxes(objects, _images(messages))
    for name, mark, found in (("ref", _REF, refs), ("bbox", _BOX, boxes)):
        marks = sum(text.count(mark) for message in messages for text in _texts(message))
        if len(found) != marks:
            raise DataError(
                f"objects.{name} holds {len(found)}, the messages have {marks} {mark}; both "
                "should be the same number"
            )
    texts, places = iter(refs), iter(boxes)
    return [replace(m, content=_filled(m.content, texts, places)) for m in messages]


def _images(messages: Sequence[Message]) -> int:
    parts = [part for m in messages if not isinstance(m.content, str) for part in m.content]
    return sum(isinstance(part, Media) and part.kind == "image" for part in parts)


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part for part in message.content if isinstance(part, str)]


def _boxes(objects: Mapping[str, Any], images: int) -> list[Box]:
    scale = objects.get("bbox_type")
    if not isinstance(scale, str | None) or scale not in _SCALES:
        raise DataError(
            "objects.bbox_type should be real (pixels), norm1 (parts of the image) or norm1000"
        )
    values = list_of(objects.get("bbox") or [], "objects.bbox")
    numbers = list_of(objects.get("image_id") or [0] * len(values), "objects.image_id")
    if len(numbers) != len(values):
        raise DataError(f"objects.image_id holds {len(numbers)}, objects.bbox {len(values)}")
    boxes = []
    for i, (value, image) in enumerate(zip(values, numbers, strict=True)):
        if not isinstance(image, int) or isinstance(image, bool) or not 0 <= image < images:
            raise DataError(
                f"objects.bbox[{i}] is in an image that the row does not have: it has {images}"
            )
        boxes.append(Box(_corners(value, f"objects.bbox[{i}]"), _SCALES[scale], image))
    return boxes


def _corners(value: Any, where: str) -> tuple[float, ...]:
    """(x, y), or (left, top, right, bottom) from two opposite corners."""
    if not isinstance(value, list) or len(value) not in (2, 4):
        raise DataError(f"{where} should be [x, y] or [x1, y1, x2, y2]")
    at = [number_of(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if len(at) == 2:
        return tuple(at)
    return min(at[0], at[2]), min(at[1], at[3]), max(at[0], at[2]), max(at[1], at[3])


def _filled(
    content: str | tuple[Part, ...], refs: Iterator[str], boxes: Iterator[Box]
) -> str | tuple[Part, ...]:
    parts: list[Part] = []
    for part in (content,) if isinstance(content, str) else content:
        if not isinstance(part, str):
            parts.append(part)
            continue
        for piece, is_mark in split_at(part, (_REF, _BOX)):
            found: Part = Ref(next(refs)) if piece == _REF else next(boxes) if is_mark else piece
            parts.append(found)
    return plain(parts)
