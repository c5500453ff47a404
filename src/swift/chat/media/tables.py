"""Tables of MP4 files, looked at before FFmpeg makes room for what they say.

Such a file may say in a dozen bytes that it has a thousand million samples of one size, and FFmpeg
keeps some 70 bytes for each, whether or not the file goes on. So they are counted here, from the
boxes alone (ISO/IEC 14496-12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MOST = 2_000_000
"""Frames of a file: of a video 18 hours, if they are 30 a second."""

_SOUND_AT_ONCE = 1024  # samples of plain sound that FFmpeg keeps as one
_MOST_BOXES = 1_000_000
_INSIDE = frozenset(
    (
        *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"mvex", b"edts"),
        *(b"udta", b"wave", b"dinf", b"tref", b"sinf", b"schi", b"hoov", b"free"),
    )
)  # free: FFmpeg looks for a lost moov in it
_PLAIN = frozenset(
    (
        *(b"sowt", b"twos", b"raw ", b"NONE", b"in24", b"in32", b"fl32", b"fl64", b"lpcm", b"ipcm"),
        *(b"fpcm", b"ulaw", b"alaw", b"ms\0\x02"),
    )
)  # sound that is not compressed, or each sample by itself
_ELSEWHERE = (b"url ", b"alis", b"rsrc")  # where samples lie, not what they are
_RUNS = (b"stts", b"ctts")  # tables of (how many samples, what they have in common)

Box = tuple[bytes, int, int]
"""Name of a box, where its content begins and ends."""


@dataclass
class _Track:
    """What the tables of one track say."""

    sound: bool = False
    plain: bool = False
    ticks: bool = False  # every sample lasts one
    samples: int = 0
    in_runs: int = 0
    a_chunk: int = 0  # samples, at most
    chunks: int = 0

    @property
    def kept(self) -> int:
        """Entries that FFmpeg makes."""
        if self.sound and self.plain and self.ticks:
            return self.chunks * -(-self.a_chunk // _SOUND_AT_ONCE)
        return max(self.samples, self.in_runs)


def check_tables(stream: BinaryIO) -> None:
    """See that an MP4 says of no more than :data:`MOST` samples; other files have no such boxes.

    Raises:
        ValueError: it does, or its tables are packed.
    """
    track, in_fragments = _Track(), 0
    for name, start, end in _boxes(stream):
        if name == b"cmov":
            raise ValueError("its tables are compressed: write it anew")
        if name == b"trak":
            track = _Track()
        elif name == b"trun":
            in_fragments += _number(stream, start + 4)
        else:
            _read(stream, name, start, end, track)
        if max(track.kept, in_fragments) > MOST:
            raise ValueError(f"its header says more than {MOST} frames")


def _read(stream: BinaryIO, name: bytes, start: int, end: int, track: _Track) -> None:
    """Take in one table of a track."""
    if name == b"hdlr":
        kind = _word(stream, start + 8)
        track.sound = kind == b"soun" or (track.sound and kind in _ELSEWHERE)
    elif name == b"stsd":
        track.plain = _number(stream, start + 4) == 1 and _word(stream, start + 12) in _PLAIN
    elif name in (b"stsz", b"stz2"):
        track.samples = _number(stream, start + 8)
    elif name in (b"stco", b"co64"):
        track.chunks = _number(stream, start + 4)
    elif name == b"stsc":
        track.a_chunk = int(_table(stream, start, end, 3)[:, 1].max(initial=0))
    elif name in _RUNS:
        runs = _table(stream, start, end, 2)
        track.in_runs = max(track.in_runs, int(runs[:, 0].sum()))
        if name == b"stts":
            track.ticks = len(runs) == 1 and int(runs[0, 1]) == 1


def _boxes(stream: BinaryIO) -> Iterator[Box]:
    """All boxes of a file and those in them, in their order; what others hold is not read."""
    size = stream.seek(0, 2)
    left = [(0, size)]
    seen = 0
    while left:
        at, end = left.pop()
        stream.seek(at)
        head = stream.read(16)
        length, name, start = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1:
            length, start = int.from_bytes(head[8:], "big"), at + 16
        stop = at + length if length else end
        if len(head) < 8 or stop < start:
            continue
        stop, seen = min(stop, end), seen + 1
        if seen > _MOST_BOXES:
            raise ValueError(f"it has more than {_MOST_BOXES} boxes")
        if stop < end:
            left.append((stop, end))
        yield name, start, stop
        if name in _INSIDE and start < stop:
            left.append((start, stop))


def _word(stream: BinaryIO, at: int) -> bytes:
    stream.seek(at)
    return stream.read(4)


def _number(stream: BinaryIO, at: int) -> int:
    return int.from_bytes(_word(stream, at), "big")


def _table(stream: BinaryIO, start: int, end: int, columns: int) -> NDArray[np.int64]:
    """The rows of a table (R, columns), as far as the box goes."""
    rows = min(_number(stream, start + 4), max(end - start - 8, 0) // (4 * columns))
    content = stream.read(rows * 4 * columns)
    whole = len(content) // (4 * columns)
    found = np.frombuffer(content, ">u4", whole * columns).reshape(whole, columns)
    return found.astype(np.int64)
