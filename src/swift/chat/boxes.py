"""Places and names of things in images, written the way a model was taught to.

Pixels are those of the image as it is seen, upright. By default a place is written in thousandths
of width and height, and between the control tokens ``<|box_start|>`` and ``<|box_end|>`` where
the tokenizer has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from swift.chat.media.image import size_of
from swift.chat.media.marks import Marks
from swift.chat.media.settings import MediaSettings
from swift.chat.message import Box, Media, Message, Ref
from swift.chat.tokenizer import Tokenizer
from swift.errors import RenderError

Form = Literal["auto", "tokens", "list", "pairs"]
Unit = Literal["norm1000", "none"]
Size = tuple[float, float]
"""Width and height."""

_BOX = ("<|box_start|>", "<|box_end|>")
_REF = ("<|object_ref_start|>", "<|object_ref_end|>")


@dataclass(frozen=True)
class BoxStyle:
    """How places are written.

    Attributes:
        form: ``tokens`` ``<|box_start|>(1,2),(3,4)<|box_end|>``; ``list`` ``[1, 2, 3, 4]``;
            ``pairs`` ``[(1,2),(3,4)]``; ``auto`` tokens where the tokenizer has them, else list.
        unit: ``norm1000`` thousandths of the image; ``none`` pixels of the image as the processor
            resizes it.
    """

    form: Form = "auto"
    unit: Unit = "norm1000"


class Boxes:
    """How one checkpoint writes places and names."""

    def __init__(
        self, style: BoxStyle, tokenizer: Tokenizer, marks: Callable[[], Marks | None]
    ) -> None:
        """Marks are asked for only where pixels of the resized image are meant."""
        self._style = style
        self._marks = marks
        known = all(_is_control(tokenizer, token) for token in (*_BOX, *_REF))
        if style.form == "tokens" and not known:
            raise RenderError(
                f"--bbox_format tokens: the tokenizer has no control tokens {_BOX[0]} and "
                f"{_REF[0]}; write --bbox_format list"
            )
        self._form = ("tokens" if known else "list") if style.form == "auto" else style.form

    def fill(
        self,
        turn: Mapping[str, Any],
        message: Message,
        images: Sequence[Media],
        settings: MediaSettings,
        *,
        in_parts: bool,
    ) -> dict[str, Any]:
        """A quoted turn with what is written for its places and names.

        Args:
            turn: as the template reads it; its content has a part for each of the message's.
            message: whose turn it is.
            images: of the conversation.
            settings: how images are read.
            in_parts: whether the template reads texts as lists of parts.

        Raises:
            RenderError: a place is outside of its image, or the size of the image is not known.
            DataError: its image cannot be read.
        """
        parts = [
            self._written(part, of_turn, images, settings)
            for part, of_turn in zip(message.content, turn["content"], strict=True)
        ]
        content: list[Mapping[str, Any]] = []
        for is_text, run in groupby(parts, lambda part: part["type"] == "text"):
            some = list(run)
            text = "".join(part.get("text", "") for part in some)
            content += [{"type": "text", "text": text}] if is_text else some
        alone = len(content) == 1 and content[0]["type"] == "text" and not in_parts
        return {**turn, "content": content[0]["text"] if alone else content}

    def _written(
        self,
        part: Any,
        of_turn: Mapping[str, Any],
        images: Sequence[Media],
        settings: MediaSettings,
    ) -> Mapping[str, Any]:
        if isinstance(part, Ref) and self._form == "tokens":
            return {"type": "text", "text": of_turn["text"].join(_REF)}
        if isinstance(part, Box):
            return {"type": "text", "text": self._text(self._placed(part, images, settings))}
        return of_turn

    def _text(self, at: Sequence[int]) -> str:
        if self._form == "list":
            return str(list(at))
        pairs = ",".join(f"({x},{y})" for x, y in zip(at[::2], at[1::2], strict=True))
        return pairs.join(_BOX) if self._form == "tokens" else f"[{pairs}]"

    def _placed(self, box: Box, images: Sequence[Media], settings: MediaSettings) -> list[int]:
        """Corners in the unit that is asked for."""
        image = images[box.image]
        seen = size_of(str(image.source), settings=settings)
        whole = {"real": seen, "norm1": (1.0, 1.0), "norm1000": (1000.0, 1000.0)}[box.scale]
        wanted = (1000.0, 1000.0) if self._style.unit == "norm1000" else self._resized(image)
        if not all(0 <= value <= whole[i % 2] for i, value in enumerate(box.corners)):
            raise RenderError(
                f"the box {list(box.corners)} is outside of its image of {seen[0]} x {seen[1]} "
                "pixels (as it is seen: turned as its EXIF data say)"
                + ("" if box.scale == "real" else f", with bbox_type {box.scale}")
            )
        return [round(value / whole[i % 2] * wanted[i % 2]) for i, value in enumerate(box.corners)]

    def _resized(self, image: Media) -> Size:
        marks = self._marks()
        size = None if marks is None else marks.processor.resized(marks.prepare([image]))
        if size is None:
            raise RenderError(
                "--norm_bbox none: the processor does not say to which size it resizes an image "
                "as a whole; write --norm_bbox norm1000"
            )
        return size


def _is_control(tokenizer: Tokenizer, token: str) -> bool:
    ids = tokenizer.encode(token).ids
    return len(ids) == 1 and ids[0] in tokenizer.special_ids
