"""Images of a request as an engine wants them that lays their tokens in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from swift.chat.media.marks import Marks
from swift.chat.message import Media
from swift.errors import ConfigError, DataError
from swift.infer.engine import Request


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


def laid_in(found: Sequence[int], request: Request) -> None:
    """Refuse a prompt of which an engine has made other tokens than the checkpoint's processor.

    Args:
        found: the engine's, with what stands for each image.
        request: with those of the processor.

    Raises:
        ConfigError: they differ.
    """
    if list(found) != request.tokens:
        raise ConfigError(
            f"vLLM reads the prompt with its images as {len(found)} tokens, the checkpoint's "
            f"processor as {len(request.tokens)}, and they are not the same"
        )


def data_url(image: Any) -> str:
    """An image, to the last pixel, inside an address."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # on its way within one machine, mostly
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _find(tokens: Sequence[int], part: Sequence[int], start: int) -> int | None:
    """Where a part begins, at ``start`` or behind it."""
    size = len(part)
    places = range(start, len(tokens) - size + 1)
    return next((i for i in places if list(tokens[i : i + size]) == list(part)), None)
