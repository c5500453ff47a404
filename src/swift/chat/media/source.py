"""Where a medium lies -> its bytes: a path, ``file://``, a ``data:`` URL, http or https."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from swift.chat.media.heads import HEAD, describe
from swift.chat.media.remote import download
from swift.chat.media.settings import MAX_BYTES, MediaSettings
from swift.errors import DataError, SwiftError

_LONG = 200
_SCHEMES = ("data:", "http://", "https://", "file:")


def shown(source: str | tuple[str, ...]) -> str:
    """A source as errors name it: ``data:`` URLs and other long ones are cut."""
    if not isinstance(source, str):
        return f"a video of {len(source)} frames"
    room = 48 if source[:5].lower() == "data:" else _LONG
    # what cannot be printed or encoded must not break the message
    text = source[:room].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(source) <= room else f"{text}... ({len(source)} characters)"


def read_bytes(
    source: str,
    base: Path | None = None,
    allow_remote: bool = False,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """The content of a medium.

    Args:
        source: a path, ``file://``, a ``data:`` URL in base64, or an http(s) address. A path that
            is not absolute is looked for in ``base``, then in the working directory.
        base: the folder of the file of rows that names the medium.
        allow_remote: http(s) is read.
        max_bytes: refused beyond.

    Raises:
        DataError: it is missing, a folder, empty, too large, unreadable, or remote without leave.
    """
    settings = MediaSettings(allow_remote=allow_remote, max_bytes=max_bytes)
    with opened(source, base, settings) as stream, refusing(source, "a file"):
        return stream.read()


@contextmanager
def opened(source: str, base: Path | None, settings: MediaSettings) -> Iterator[BinaryIO]:
    """A medium to read from; a file on disk is not taken into memory.

    Raises:
        DataError: as for :func:`read_bytes`.
    """
    with refusing(source, "a file"):
        stream = _open(source, base, settings)
    with stream:
        yield stream


class Steady:
    """A file for libraries of C: a seek that cannot be, as broken headers ask for, answers -1.

    They would print a traceback of the exception and go on.
    """

    def __init__(self, stream: BinaryIO) -> None:
        stream.seek(0)
        self.read, self.tell, self._seek = stream.read, stream.tell, stream.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position, or -1."""
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


def head_of(stream: BinaryIO) -> str:
    """What an open file is, in words."""
    stream.seek(0)
    return describe(stream.read(HEAD))


@contextmanager
def refusing(
    source: str | tuple[str, ...], what: str, stream: BinaryIO | None = None
) -> Iterator[None]:
    """Whatever a decoder raises, as a DataError with the source, the reason and the first bytes.

    Decoders raise almost anything on broken input (also ValueError, struct.error, SyntaxError).
    """
    try:
        yield
    except SwiftError:
        raise
    except MemoryError:
        raise DataError(f"{shown(source)}: more than fits into memory, as {what}") from None
    except Exception as error:
        found = ""
        if stream is not None and not stream.closed:
            found = f"; it is {head_of(stream)}"
        reason = _reason(error)
        raise DataError(f"{shown(source)}: not readable as {what}{found} ({reason})") from error


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    text = " ".join((reason or str(error) or type(error).__name__).split())
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _open(source: str, base: Path | None, settings: MediaSettings) -> BinaryIO:
    scheme = next((s for s in _SCHEMES if source[: len(s)].lower() == s), "")
    if not source.strip():
        raise DataError("a medium has no source: give a path, an address or a data: URL")
    if scheme == "data:":
        return _held(_decoded(source, settings.max_bytes), source)
    if scheme.startswith("http"):
        if not settings.allow_remote:
            raise DataError(
                f"{shown(source)}: on the network, and media are read from disk alone unless "
                "asked otherwise: download it, or give --allow_remote_media true"
            )
        return _held(download(source, shown(source), settings.max_bytes), source)
    if not scheme and "://" in source[:16]:
        raise DataError(f"{shown(source)}: neither a path nor file://, http://, https:// or data:")
    return _file(source, _from_url(source) if scheme else Path(source), base, settings.max_bytes)


def _held(content: bytes, source: str) -> BinaryIO:
    if not content:
        raise DataError(f"{shown(source)}: empty")
    return io.BytesIO(content)


def _decoded(source: str, max_bytes: int) -> bytes:
    header, comma, text = source.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise DataError(f"{shown(source)}: not of the form data:image/png;base64,...")
    if len(text) * 3 // 4 > max_bytes:
        raise DataError(f"{shown(source)}: more than max_bytes={max_bytes}")
    try:
        return base64.b64decode("".join(unquote(text).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{shown(source)}: not base64: {error}") from None


def _from_url(source: str) -> Path:
    url = urlsplit(source)
    if url.netloc not in ("", "localhost"):
        raise DataError(
            f"{shown(source)}: a file on another computer ({url.netloc}); a file here is written "
            "file:///folder/name"
        )
    # not url.path: a name on disk may hold what parts an address, such as # and ?
    return Path(url2pathname(source[len("file:") :].removeprefix("//").removeprefix("localhost")))


def _file(source: str, path: Path, base: Path | None, max_bytes: int) -> BinaryIO:
    places = [path.expanduser()]
    if base is not None and not places[0].is_absolute():
        places.insert(0, base / places[0])
    found = next((place for place in places if os.path.lexists(place)), None)
    if found is None:
        raise DataError(f"{shown(source)}: does not exist{_looked(places)}")
    if found.is_dir():
        raise DataError(f"{shown(source)}: a folder; name the file in it")
    if not found.is_file():
        missing = found.is_symlink() and not found.exists()
        raise DataError(
            f"{shown(source)}: {'a link to nothing' if missing else 'not an ordinary file'}"
        )
    size = found.stat().st_size
    if not size:
        raise DataError(f"{shown(source)}: empty (0 bytes); copy or download it again")
    if size > max_bytes:
        raise DataError(f"{shown(source)}: {size} bytes, more than max_bytes={max_bytes}")
    return found.open("rb")


def _looked(places: list[Path]) -> str:
    folders = [str(place.absolute().parent) for place in places]
    return f"; looked in {' and '.join(dict.fromkeys(folders))}"
