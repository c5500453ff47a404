"""Frames of a video file, by PyAV: once through its packets for the times, once for the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.sidedata.sidedata import SideData
from numpy.typing import NDArray

from swift.chat.media.container import container, timely
from swift.chat.media.frames import Chosen, Times, by_keyframes, in_order
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import opened, refusing, shown
from swift.chat.media.tables import MOST
from swift.chat.media.video import Video, check_together, spread
from swift.errors import DataError

_SLACK_S = 0.3  # a file that ends so much before its header says is whole
_MICROSECONDS = 1_000_000  # unit of a container's times


def open_file(source: str, base: Path | None, settings: MediaSettings) -> Video:
    """The implementation of :func:`swift.chat.media.video.open_video` for a file."""
    with opened(source, base, settings) as stream, refusing(source, "a video", stream):
        times = _times(stream, source, settings)
        seconds = times.end - times.start
        count, distance = spread(seconds, times.rate, times.frames, settings)
        points = [k * distance for k in range(count)]
        if times.cut and points[-1] >= times.last - times.start + 1 / times.rate:
            raise DataError(
                f"{shown(source)}: cut off: the header says {seconds:.2f} s, the pictures end at "
                f"{times.last - times.start:.2f} s; copy or download it again"
            )
        ways = (by_keyframes, in_order) if times.packets else (in_order,)
        for way in ways:
            frames, indices = _collected(way(stream, times, points), source, count, settings)
            if len(indices) == count:
                return Video(frames, 1 / distance, seconds, indices)
        raise DataError(
            f"{shown(source)}: only {len(indices)} of {count} frames can be decoded; it is cut off "
            "or broken: copy or download it again"
        )


def _times(stream: BinaryIO, source: str, settings: MediaSettings) -> Times:
    shown_at: list[float] = []
    read_at: list[float] = []  # AVI has no other times
    packets: list[tuple[int, bool]] = []
    end = seen_to = 0.0
    seen = 0
    with container(stream) as file:
        video = _picture_stream(file, source, settings)
        for packet in timely(file.demux(), settings.max_decode_s):
            ours = packet.stream_index == video.index
            seen += ours and packet.size > 0
            if seen > MOST:
                raise ValueError(f"it has more than {MOST} frames")
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None or packet.is_corrupt or packet.is_discard:
                continue
            begins = float(stamp * packet.time_base)
            ends = begins + float((packet.duration or 0) * packet.time_base)
            seen_to = max(seen_to, ends)
            if ours:
                read_at.append(begins)
                if packet.pts is not None:
                    shown_at.append(begins)
                    packets.append((packet.pts, packet.is_keyframe))
                    end = max(end, ends)
        rate = float(video.average_rate or video.guessed_rate or 0)
        tick = float(video.time_base or 0)
        declared = _declared_end(file, video)
        number = video.index
    if not read_at:
        raise DataError(f"{shown(source)}: no pictures are in its video; it is empty or cut off")
    frames = len(read_at)
    start, last = min(shown_at or read_at), max(shown_at or read_at)
    rate = _rate(rate, start, last, frames)
    end = end if end > last else last + 1 / rate
    cut = declared - max(seen_to, end) > max(_SLACK_S, 2 / rate)
    if cut:
        end = declared
        frames = max(frames, round((end - start) * rate))
    known = len({ticks for ticks, _ in packets}) == len(read_at) == seen
    kept = tuple(packets) if known else ()
    most_s = settings.max_decode_s
    return Times(start, last, end, frames, rate, tick, cut, most_s, number, kept)


def _rate(stated: float, start: float, last: float, frames: int) -> float:
    """Frames per second: as they are, where there are two; else as the header says."""
    if frames > 1 and last > start:
        return (frames - 1) / (last - start)
    return stated if 0 < stated <= 1000 else 25.0


def _declared_end(file: av.container.InputContainer, video: av.VideoStream) -> float:
    """When a file ends by its header, in seconds; 0 where it does not say.

    Some formats count from 0 and others from the start, so a start above 0 is not added: rather is
    a cut not seen than a whole file refused.
    """
    if file.format.name == "avi" and video.average_rate:
        # its duration is shortened to what is there, its number of frames is not
        return float(video.frames / video.average_rate)
    if file.duration is None:
        return 0.0
    return (file.duration + min(file.start_time or 0, 0)) / _MICROSECONDS


def _picture_stream(
    file: av.container.InputContainer, source: str, settings: MediaSettings
) -> av.VideoStream:
    # a sound's cover is a video stream of one picture
    streams = [
        one
        for one in file.streams.video
        if not one.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        raise DataError(f"{shown(source)}: no video stream in it, as in a file of sound alone")
    stream = streams[0]
    _check_size(stream.width, stream.height, source, settings)
    return stream


def _check_size(width: int, height: int, source: str, settings: MediaSettings) -> None:
    if width * height > settings.max_image_pixels:
        raise DataError(
            f"{shown(source)}: frames of {width} x {height} pixels, the limit is "
            f"max_image_pixels={settings.max_image_pixels}; make it smaller"
        )


def _collected(
    chosen: Iterator[Chosen], source: str, total: int, settings: MediaSettings
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Frames (total, H, W, 3) and their numbers, of which there may be fewer."""
    taken = np.empty((total, 0, 0, 3), np.uint8)
    indices: list[int] = []
    for index, frame, count in chosen:
        if frame.is_corrupt:
            raise DataError(f"{shown(source)}: frame {index} is broken; copy or download it again")
        _check_size(frame.width, frame.height, source, settings)  # it may change on the way
        pixels = _upright(frame)
        if not indices:
            check_together(source, total, (frame.width, frame.height), settings)
            taken = np.empty((total, *pixels.shape), np.uint8)
        elif taken.shape[1:] != pixels.shape:
            raise DataError(f"{shown(source)}: frames change their size at frame {index}")
        taken[len(indices) : len(indices) + count] = pixels
        indices += [index] * count
    return taken, tuple(indices)


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), turned and mirrored as the file's display matrix says, in quarters."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return pixels
    # (x, y) is shown at (a x + c y, b x + d y)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)
        across, down = c, b
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
