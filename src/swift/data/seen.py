"""The media of a sample for people to see: what they are, where they stand, and how they look."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from swift.chat.media.image import open_image
from swift.chat.media.source import shown
from swift.chat.message import Media
from swift.chat.render import Renderer
from swift.data.sample import Sample
from swift.errors import DataError

_SIDE = 96  # pixels of the longer side of a thumbnail
_PICTURED = 24  # media of a sample that have one


@dataclass(frozen=True)
class Seen:
    """One medium of a sample; tokens ``start`` up to ``stop`` stand for it."""

    name: str
    what: str  # "64 x 48 pixels", or why it cannot be read
    start: int = 0
    stop: int = 0
    picture: str = ""  # a data: URL

    def __str__(self) -> str:
        count = self.stop - self.start
        place = f", {count:,} tokens, {self.start:,} to {self.stop - 1:,}" if count else ""
        return f"{self.name}: {self.what}{place}"


def see(sample: Sample, renderer: Renderer) -> list[Seen]:
    """The media of a sample in the order of its tokens; counts positions from 0."""
    found: list[Seen] = []
    tokens, at = sample.tokens.tolist(), 0
    for number, medium in enumerate(sample.media):
        name = shown(medium.source)
        try:
            ids = renderer.marks.ids(medium)
            what, picture = _look(medium, renderer) if number < _PICTURED else (medium.kind, "")
        except DataError as error:
            found.append(Seen(name, str(error).removeprefix(f"{name}: ")))
            continue
        start = _find(tokens, ids, at)
        if start is None:
            found.append(Seen(name, f"{what}, not the one that the tokens were made of"))
            continue
        at = start + len(ids)
        found.append(Seen(name, what, start, at, picture))
    return found


def _find(tokens: Sequence[int], ids: Sequence[int], at: int) -> int | None:
    """Where some tokens stand first, from a place on."""
    places = (i for i in range(at, len(tokens) - len(ids) + 1) if tokens[i] == ids[0])
    return next((i for i in places if tokens[i : i + len(ids)] == ids), None)


def _look(medium: Media, renderer: Renderer) -> tuple[str, str]:
    """Size and thumbnail."""
    if medium.kind != "image" or not isinstance(medium.source, str):
        return medium.kind, ""
    spec = renderer.spec.media
    image = open_image(medium.source, settings=spec.settings if spec else None)
    width, height = image.size
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f"{width:,} x {height:,} pixels", url
