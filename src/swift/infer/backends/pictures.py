"""Images of a request as an engine wants them that lays their tokens in itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.chat.media.marks import Marks
from swift.chat.message import Media
from swift.errors import ConfigError, DataError


def marked(
    tokens: Sequence[int], media: Sequence[Media], marks: Marks, encode: Any
) -> tuple[list[int], list[Any]]:
    """Tokens with one mark in the place of all that stand for an image, and the images.

    Args:
        tokens: of a prompt, with what stands for each image.
        media: in the order in which they stand in the tokens.
        marks: how the checkpoint writes images.
        encode: a mark to its tokens.

    Raises:
        ConfigError: there is something else than images.
        DataError: an image cannot be read, or is not the one that the tokens were made of.
    """
    if others := sorted({medium.kind for medium in media} - {"image"}):
        raise ConfigError(f"the vllm engine takes images alone, no {others[0]}")
    out: list[int] = []
    images: list[Any] = []
    at = 0
    for medium in media:
        ids = marks.ids(medium)
        start = _find(tokens, ids, at)
        if start is None:
            raise DataError(f"{medium.source}: its tokens are not in the prompt")
        out += [*tokens[at:start], *encode(marks.mark_of(medium))]
        at = start + len(ids)
        images += marks.processor.read(medium)
    return [*out, *tokens[at:]], images


def _find(tokens: Sequence[int], part: Sequence[int], start: int) -> int | None:
    """Where a part begins, at ``start`` or behind it."""
    size = len(part)
    places = range(start, len(tokens) - size + 1)
    return next((i for i in places if list(tokens[i : i + size]) == list(part)), None)
