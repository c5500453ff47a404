"""Images: every one is read right, or refused with words that help."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from swift.chat.media import MediaSettings, open_image, size_of
from swift.chat.media.grey import to_grey
from swift.errors import DataError

HEIGHT, WIDTH = 18, 31


def pixels(channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)


def smooth() -> np.ndarray:
    """Colours that a lossy format keeps nearly."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 8, y * 14, 255 - x * 4 - y * 3], -1).astype(np.uint8)


def saved(image: Image.Image, form: str, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def put(folder: Path, content: bytes, name: str = "medium") -> str:
    (folder / name).write_bytes(content)
    return name


def read(folder: Path, content: bytes, settings: MediaSettings | None = None) -> np.ndarray:
    """The pixels of a file; its size from the header is theirs."""
    name = put(folder, content)
    image = open_image(name, folder, settings)
    assert image.mode == "RGB"
    assert ImageOps.exif_transpose(image) == image  # nobody turns it again
    assert size_of(name, folder, settings) == image.size
    return np.asarray(image)


def refused(folder: Path, content: bytes, settings: MediaSettings | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_image(put(folder, content), folder, settings)
    assert str(caught.value).startswith("medium: ")
    return str(caught.value)


PNG = saved(Image.fromarray(pixels()), "PNG")


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG2000", "ICO"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, form: str) -> None:
    how: dict[str, object] = {"WEBP": {"lossless": True}, "ICO": {"sizes": [(31, 18)]}}.get(
        form, {}
    )
    truth = pixels()
    if form == "GIF":
        truth = truth[:, :, :1].repeat(3, 2)
        how = {"optimize": False}
    image = Image.fromarray(truth) if form != "GIF" else Image.fromarray(truth[:, :, 0])
    assert np.array_equal(read(tmp_path, saved(image, form, **how)), truth)


@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
def test_lossy_formats_are_near(tmp_path: Path, form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    content = saved(Image.fromarray(smooth()), form, quality=95)
    assert np.abs(read(tmp_path, content).astype(int) - smooth()).max() < 16


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_images_are_turned_upright(tmp_path: Path, form: str, orientation: int) -> None:
    how: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    content = saved(Image.fromarray(pixels()), form, exif=exif(orientation), **how)
    truth = UPRIGHT[orientation](pixels())
    if form == "JPEG":
        plain = saved(Image.fromarray(pixels()), "JPEG")
        truth = UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(plain))))
    assert np.array_equal(read(tmp_path, content), truth)


def test_the_orientation_of_a_png_may_stand_behind_its_pixels(tmp_path: Path) -> None:
    body = exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + body))
    assert np.array_equal(read(tmp_path, PNG[:-12] + chunk + PNG[-12:]), UPRIGHT[6](pixels()))


@pytest.mark.parametrize(
    "data", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_data_leave_the_image_as_it_lies(tmp_path: Path, data: bytes) -> None:
    content = saved(Image.fromarray(pixels()), "JPEG", exif=data)
    assert read(tmp_path, content).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_lie_on_white(tmp_path: Path, form: str) -> None:
    rgba = pixels(4)
    rgba[:, :5, 3], rgba[:, 5:10, 3] = 0, 255
    how: dict[str, object] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    found = read(tmp_path, saved(Image.fromarray(rgba), form, **how))
    alpha = rgba[:, :, 3:] / 255
    truth = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(found - truth).max() <= 1
    assert (found[:, :5] == 255).all()
    assert np.array_equal(found[:, 5:10], rgba[:, 5:10, :3])


def test_grey_with_alpha_and_colour_keys_lie_on_white(tmp_path: Path) -> None:
    grey = pixels(2)
    found = read(tmp_path, saved(Image.fromarray(grey, "LA"), "PNG"))
    alpha = grey[:, :, 1] / 255
    assert np.abs(found[:, :, 0] - (grey[:, :, 0] * alpha + 255 * (1 - alpha))).max() <= 1
    flat = np.full((4, 4), 7, np.uint8)
    flat[0, 0] = 9
    truth = np.where(flat == 9, 255, 7)
    found = read(tmp_path, saved(Image.fromarray(flat), "PNG", transparency=9))
    assert np.array_equal(found[:, :, 0], truth)
    deep = Image.fromarray(flat.astype(np.uint16) * 257)
    found = read(tmp_path, saved(deep, "PNG", transparency=9 * 257))
    assert np.array_equal(found[:, :, 1], truth)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour(tmp_path: Path, form: str) -> None:
    index = np.random.default_rng(1).integers(0, 4, (HEIGHT, WIDTH), np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    assert np.array_equal(read(tmp_path, saved(image, form, optimize=False)), palette[index])
    found = read(tmp_path, saved(image, form, transparency=2, optimize=False))
    palette[2] = 255
    assert np.array_equal(found, palette[index])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_one_bit_and_eight_bits_of_grey(tmp_path: Path, form: str) -> None:
    bits = pixels(1)[:, :, 0] > 127
    found = read(tmp_path, saved(Image.fromarray(bits), form))
    assert np.array_equal(found, np.where(bits, 255, 0)[:, :, None].repeat(3, 2))
    grey = pixels(1)[:, :, 0]
    found = read(tmp_path, saved(Image.fromarray(grey), form))
    assert np.array_equal(found, grey[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("top", [65535, 200])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, form: str, top: int) -> None:
    deep = np.random.default_rng(0).integers(0, top + 1, (HEIGHT, WIDTH)).astype(np.uint16)
    deep[0, 0], deep[0, 1] = 0, top
    found = read(tmp_path, saved(Image.fromarray(deep), form))
    assert np.array_equal(found[:, :, 0], np.rint(deep / 257).astype(np.uint8))
    assert np.array_equal(found[:, :, 0], found[:, :, 2])


@pytest.mark.parametrize(
    ("values", "truth"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 7.0, 255.0], [0, 7, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([1e6, 2e6, 3e6], [0, 128, 255]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
        (np.int32([0, 1, 255]), [0, 1, 255]),
        (np.int32([0, 514, 60000]), [0, 2, 233]),
        (np.int32([0, 1 << 30, (1 << 31) - 1]), [0, 128, 255]),
    ],
)
def test_values_without_a_stated_range(
    tmp_path: Path, values: list[float] | np.ndarray, truth: list[int]
) -> None:
    array = np.asarray([values], values.dtype if isinstance(values, np.ndarray) else np.float32)
    assert to_grey(array, None).tolist() == [truth]
    assert read(tmp_path, saved(Image.fromarray(array), "TIFF"))[:, :, 1].tolist() == [truth]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_numbers_are_refused(tmp_path: Path, value: float) -> None:
    content = saved(Image.fromarray(np.float32([[0, value]])), "TIFF")
    assert "not finite" in refused(tmp_path, content)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_by_the_plain_formula(tmp_path: Path, form: str) -> None:
    ink = np.concatenate([smooth(), pixels(1) // 2 * 0 + 40], 2)
    content = saved(Image.fromarray(ink, "CMYK"), form, quality=100)
    c, m, y, k = ink.astype(float).transpose(2, 0, 1) / 255
    truth = np.stack([255 * (1 - part) * (1 - k) for part in (c, m, y)], -1)
    found = read(tmp_path, content)
    assert np.abs(found - truth).max() < (24 if form == "JPEG" else 3)
    assert np.abs(found - truth).mean() < 4


def test_adobe_says_how_the_channels_of_a_jpeg_are_written(tmp_path: Path) -> None:
    """YCCK is the same picture as CMYK: three of its channels were turned, none is inverted."""
    content = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in content
    red = read(tmp_path, content)
    assert np.abs(red.astype(int) - [255, 0, 0]).max() < 6
    at = content.index(b"Adobe") + 11
    assert content[at] == 0
    turned = read(tmp_path, content[:at] + b"\2" + content[at + 1 :])
    stored = Image.open(io.BytesIO(content))
    y, cb, cr, k = (255 - np.asarray(stored).astype(float)).transpose(2, 0, 1)
    cmy = [y + 1.402 * (cr - 128), y - 0.344 * (cb - 128) - 0.714 * (cr - 128)]
    cmy = np.clip(np.stack([*cmy, y + 1.772 * (cb - 128)], -1), 0, 255)
    # libjpeg gives C = 255 - R; Adobe's inversion makes it the ink's complement again
    truth = (255 - cmy) * k[:, :, None] / 255
    assert np.abs(turned - truth).max() < 6


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_seen(tmp_path: Path, form: str) -> None:
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    how: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
    content = saved(frames[0], form, save_all=True, append_images=frames[1:], **how)
    assert (read(tmp_path, content) == [255, 0, 0]).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels by its header, and of none in truth."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    parts = [
        struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in (head, body)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [13378, 30000, 2_000_000_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    assert "max_image_pixels=178956970" in refused(tmp_path, bomb(side, side))
    with pytest.raises(DataError, match="max_image_pixels"):
        size_of("medium", tmp_path)


def test_the_limit_of_pixels_is_the_users(tmp_path: Path) -> None:
    words = refused(tmp_path, PNG, MediaSettings(max_image_pixels=HEIGHT * WIDTH - 1))
    assert "31 x 18 pixels, the limit is max_image_pixels=557; make it smaller" in words
    assert read(tmp_path, PNG, MediaSettings(max_image_pixels=HEIGHT * WIDTH)).shape[2] == 3
    assert Image.MAX_IMAGE_PIXELS == 89478485
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "begins with b'hello'"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b'\xef\xbb\xbf{"error": "not found"}', "JSON"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "an MP4 file"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "a WAV sound"),
        (b"PK\x03\x04....", "ZIP"),
        (bytes(100), "begins with b'"),
        (PNG[:20], "a PNG image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(tmp_path, content)


def kinds() -> dict[str, bytes]:
    """Small valid files of every format."""
    rgb = Image.fromarray(smooth())
    animation = {"save_all": True, "append_images": [Image.new("RGB", rgb.size, "red")]}
    made = {
        "jpeg": saved(rgb, "JPEG", exif=exif(6)),
        "progressive": saved(rgb, "JPEG", progressive=True),
        "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "png": saved(rgb, "PNG", exif=exif(3)),
        "rgba": saved(Image.fromarray(pixels(4)), "PNG"),
        "interlaced": saved(rgb.convert("P"), "PNG"),
        "grey16": saved(Image.fromarray(smooth()[:, :, 0].astype(np.uint16)), "PNG"),
        "gif": saved(rgb, "GIF", **animation),
        "apng": saved(rgb, "PNG", **animation),
        "webp": saved(rgb, "WEBP"),
        "webp lossless": saved(rgb, "WEBP", lossless=True, **animation),
        "bmp": saved(rgb, "BMP"),
        "ppm": saved(rgb, "PPM"),
        "ico": saved(rgb, "ICO", sizes=[(16, 16)]),
        "jpeg2000": saved(rgb, "JPEG2000"),
        "tiff": saved(rgb, "TIFF", exif=exif(6)),
        "tiff lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": saved(rgb, "TIFF", compression="jpeg"),
    }
    if features.check("avif"):
        made["avif"] = saved(rgb, "AVIF")
    return made


KINDS = kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_refused_or_whole(tmp_path: Path, kind: str) -> None:
    """Never an image that is grey from some line on."""
    content = KINDS[kind]
    whole = read(tmp_path, content)
    lengths = {
        *range(1, len(content), max(1, len(content) // 80)),
        *range(len(content) - 20, len(content)),
    }
    partial = []
    for length in sorted(lengths):
        name = put(tmp_path, content[:length])
        try:
            found = np.asarray(open_image(name, tmp_path))
        except DataError:
            continue
        if not np.array_equal(found, whole):
            partial.append(length)
    assert partial == []


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_bytes_come_in_only_data_errors_come_out(tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    settings = MediaSettings(max_image_pixels=1 << 20)
    for _ in range(60):
        content = bytearray(KINDS[kind])
        for _ in range(chance.choice((1, 1, 3, 20))):
            where = chance.randrange(min(len(content), chance.choice((64, 1 << 20))))
            content[where] = chance.randrange(256)
        name = put(tmp_path, bytes(content))
        for take in (open_image, size_of):
            try:
                found = take(name, tmp_path, settings)
            except DataError as error:
                assert str(error).startswith("medium: ")
            else:
                assert take is size_of or found.mode == "RGB"


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    heads = [*(content[:12] for content in KINDS.values()), b""]
    for length in range(1, 200, 2):
        refused(tmp_path, chance.choice(heads)[:length] + chance.randbytes(length))
