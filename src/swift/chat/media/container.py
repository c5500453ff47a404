"""Files of FFmpeg's formats, opened so that they cannot lead anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
from av.container import InputContainer

from swift.chat.media.source import Steady

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
        ValueError: FFmpeg refuses it for other reasons.
    """
    options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    with av.open(
        Steady(stream), mode="r", container_options=options, metadata_errors="ignore"
    ) as opened:
        yield opened
