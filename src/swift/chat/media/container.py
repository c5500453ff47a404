"""Files of FFmpeg's formats, opened so that they cannot lead anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import av
from av.container import InputContainer

from swift.chat.media.source import Steady
from swift.chat.media.tables import check_tables

_T = TypeVar("_T")

FORMATS = (
    *("mov", "matroska", "webm", "avi", "flv", "mpeg", "mpegts", "ogg", "asf", "gif", "ivf", "nut"),
    *("wav", "w64", "mp3", "flac", "aac", "ac3", "eac3", "amr", "aiff", "caf", "au", "ape", "tta"),
    *("wv", "rm"),
)
"""Formats that hold their media. Playlists (HLS, concat, DASH) open other files: refused."""


@contextmanager
def container(stream: BinaryIO) -> Iterator[InputContainer]:
    """Open a medium; FFmpeg reads it through ``stream`` alone, from its beginning.

    Raises:
        av.FFmpegError: it is of no format in :data:`FORMATS`.
        ValueError: FFmpeg refuses it for other reasons, or its header says what cannot be.
    """
    check_tables(stream)
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    with av.open(
        Steady(stream), mode="r", container_options=options, metadata_errors="ignore"
    ) as opened:
        yield opened


def timely(things: Iterable[_T], most_s: float | None) -> Iterator[_T]:
    """Things as they are decoded, as long as that takes no longer than so many seconds.

    Raises:
        ValueError: it does.
    """
    end = None if most_s is None else time.monotonic() + most_s
    for thing in things:
        if end is not None and time.monotonic() > end:
            raise ValueError(f"it takes longer than max_decode_s={most_s:g} to read")
        yield thing
