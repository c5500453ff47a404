"""What a file is by how it begins: only for words in errors."""

from __future__ import annotations

HEAD = 64
"""So many bytes are looked at."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"fLaC", "a FLAC sound"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (b"%PDF", "a PDF: save its pages as images"),
    (b"%!PS", "PostScript: save it as PNG or JPEG"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"#EXTM3U", "a playlist, not a medium: download what it lists"),
    (b"ffconcat", "a playlist, not a medium: join what it lists"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with `git lfs pull`"),
)
_TEXTS = (
    (b"<svg", "SVG, which is no pixels: save it as PNG"),
    (b"<!doctype html", "an HTML page: the address leads to a page, or asks for a login"),
    (b"<html", "an HTML page: the address leads to a page, or asks for a login"),
    (b"<?xml", "XML (an SVG?): save it as PNG"),
    (b"{", "JSON: perhaps the error of a server"),
)
_RIFF = {b"WEBP": "a WebP image", b"WAVE": "a WAV sound", b"AVI ": "an AVI video"}
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def describe(head: bytes) -> str:
    """A file in words, from its first bytes."""
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _brand(head[8:12])
    for beginning, words in _BEGINNINGS:
        if head.startswith(beginning):
            return words
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, words in _TEXTS:
        if text.startswith(beginning):
            return words
    return f"a file that begins with {head[:12]!r}"


def _brand(brand: bytes) -> str:
    if brand in _HEIF:
        return "a HEIC image: save it as JPEG or PNG"
    return "an AVIF image" if brand[:3] == b"avi" else "an MP4 file"
