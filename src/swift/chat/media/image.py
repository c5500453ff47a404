"""An image as it is meant to be seen: upright, 8 bits of red, green and blue, all of it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from swift.chat.media.grey import to_grey
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import opened, refusing, shown
from swift.errors import DataError

FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO"),
    "HEIF",  # where a plug-in of Pillow brings it
)
"""Formats of pixels. Others that Pillow knows run programs (EPS) or have no signature (TGA)."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_WHITE = (255, 255, 255)


def open_image(
    source: str, base: Path | None = None, settings: MediaSettings | None = None
) -> Image.Image:
    """An image in RGB.

    It is turned as its EXIF data say. What is transparent lies on white. More than 8 bits are
    scaled, not clipped. CMYK becomes RGB by Pillow's plain formula, without colour profiles. Of an
    animation or a file of several pages it is the first one.

    Args:
        source: where it lies (see :func:`swift.chat.media.source.read_bytes`).
        base: the folder that relative paths begin at.
        settings: limits.

    Raises:
        DataError: it cannot be read, is no image, is cut off, or has too many pixels.
    """
    settings = settings or MediaSettings()
    with opened(source, base, settings) as stream, refusing(source, "an image", stream):
        image = _begin(stream, source, settings)
        tiff = image.format == "TIFF"  # which Pillow turns itself
        if image.format == "JPEG2000" and not _whole_jpeg2000(stream):
            raise ValueError("it is cut off")  # its decoder would guess the rest
        image.load()
        turn = None if tiff else _TURNS.get(_orientation(image))
        flat = _to_rgb(image)
        upright = flat if turn is None else flat.transpose(turn)
        upright.info = {}  # with its orientation, by which others would turn it again
        return upright


def size_of(
    source: str, base: Path | None = None, settings: MediaSettings | None = None
) -> tuple[int, int]:
    """Width and height of :func:`open_image`'s image, from the header alone.

    Raises:
        DataError: it cannot be read, is no image, or has too many pixels.
    """
    settings = settings or MediaSettings()
    with opened(source, base, settings) as stream, refusing(source, "an image", stream):
        image = _begin(stream, source, settings)
        width, height = image.size
        sideways = image.format != "TIFF" and _early_orientation(image, stream) in _SIDEWAYS
        return (height, width) if sideways else (width, height)


def _begin(stream: BinaryIO, source: str, settings: MediaSettings) -> Image.Image:
    Image.init()
    _check_icon(stream, source, settings)  # which Pillow decodes as it opens it
    try:
        image = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:
        raise DataError(_too_large(source, "more pixels than Pillow reads", settings)) from None
    _check_size(*image.size, source, settings)
    return image


def _check_size(width: int, height: int, source: str, settings: MediaSettings) -> None:
    if width * height > settings.max_image_pixels:
        raise DataError(_too_large(source, f"{width} x {height} pixels", settings))


def _check_icon(stream: BinaryIO, source: str, settings: MediaSettings) -> None:
    """See that no picture in an icon is too large: its list has no room for their true sizes."""
    stream.seek(0)
    head = stream.read(6)
    if head[:4] == b"\0\0\1\0":
        entries = stream.read(16 * int.from_bytes(head[4:], "little"))
        for at in range(12, len(entries), 16):
            stream.seek(int.from_bytes(entries[at : at + 4], "little"))
            picture = stream.read(24)
            if picture[:4] == b"\x89PNG":
                width, height = struct.unpack(">II", picture[16:].ljust(8, b"\0"))
            else:  # a bitmap, and its mask below it
                width, height = struct.unpack("<iixxxx", picture[4:16].ljust(12, b"\0"))
                height //= 2
            _check_size(abs(width), abs(height), source, settings)
    stream.seek(0)


def _too_large(source: str, found: str, settings: MediaSettings) -> str:
    return (
        f"{shown(source)}: {found}, the limit is max_image_pixels={settings.max_image_pixels}; "
        "make it smaller"
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data raise almost anything; the pixels do not depend on them
        return 1


def _early_orientation(image: Image.Image, stream: BinaryIO) -> int:
    """The orientation without decoding: a PNG's may stand behind its pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        found = _png_exif(stream)
        if found is None:
            return 1
        image.info["exif"] = found
    return _orientation(image)


def _png_exif(stream: BinaryIO) -> bytes | None:
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"eXIf":
            return b"Exif\0\0" + stream.read(length)
        stream.seek(length + 4, 1)
    return None


def _whole_jpeg2000(stream: BinaryIO) -> bool:
    """Whether the pixels of a JPEG 2000 file go on to their end mark."""
    end = stream.seek(0, 2)
    start = 0
    stream.seek(0)
    if stream.read(2) != b"\xff\x4f":  # else it is pixels alone, in no boxes
        name, stop = b"", 0
        while name != b"jp2c" and stop + 8 <= end:
            start = stop
            stream.seek(start)
            head = stream.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            length = int.from_bytes(head[8:], "big") if length == 1 else length
            stop = start + length if length >= 8 else end  # 0: to the end of the file
        if name != b"jp2c" or stop > end:
            return False
        end = stop
    stream.seek(max(end - 2, start))
    return stream.read(2) == b"\xff\xd9"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        grey = Image.fromarray(to_grey(np.asarray(image), _full_scale(image)))
        seen = image.info.get("transparency")
        flat = grey.convert("RGB")
        if isinstance(seen, int):
            flat.paste(_WHITE, mask=Image.fromarray(_equal(np.asarray(image), seen)))
        return flat
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (*_WHITE, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _equal(pixels: NDArray[np.generic], value: int) -> NDArray[np.uint8]:
    return np.where(pixels == value, 255, 0).astype(np.uint8)


def _full_scale(image: Image.Image) -> float | None:
    """The brightest value that a pixel of more than 8 bits may have, where the format says so."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return 65535.0
    return None
