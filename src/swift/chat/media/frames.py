"""Which frames of a video file are shown at which times, decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av

from swift.chat.media.container import container, timely

Chosen = tuple[int, av.VideoFrame, int]
"""Number of a frame in the order in which they are shown, the frame, how many points it serves."""


@dataclass(frozen=True, slots=True)
class Times:
    """When frames of a file are shown, in seconds; read from its packets without decoding.

    Attributes:
        start: of the first frame.
        last: of the last frame.
        end: of the last frame's end; where the file is cut off, what its header says.
        frames: how many there are, or would be in a file that is cut off.
        rate: frames per second, on average.
        tick: the precision of the times.
        cut: the file ends before its header says.
        most_s: reading it is given up after so long.
        stream: the number of its stream in the file.
        packets: of each frame, in the order of the file, when it is shown (in ticks) and whether
            decoding can begin at it; nothing where this is not known of all of them.
    """

    start: float
    last: float
    end: float
    frames: int
    rate: float
    tick: float
    cut: bool
    most_s: float | None
    stream: int
    packets: tuple[tuple[int, bool], ...]


def by_keyframes(stream: BinaryIO, times: Times, points: list[float]) -> Iterator[Chosen]:
    """The frame shown at each point (seconds from the start), without decoding all of them.

    Decoding goes on from frame to frame, and leaps to a keyframe where one lies between. It ends
    early where a frame does not come or is broken: some files mark keyframes that are none.
    """
    wanted = _wanted(times, points)
    places = {shown: place for place, (shown, _) in enumerate(times.packets)}
    begin = {shown: _begin(times, places[shown]) for shown in wanted}
    numbers = {shown: number for number, shown in enumerate(sorted(places))}
    left = deque(wanted)
    resume = begin[left[0]]
    with container(stream) as file:
        video = _video(file, times)
        for packet in timely(file.demux(video), times.most_s):
            place = len(places) if packet.pts is None else places[packet.pts]
            if place < resume:
                continue
            for frame in packet.decode():
                if frame.pts is None or frame.pts < left[0]:
                    continue
                if frame.pts > left[0] or frame.is_corrupt:
                    return
                shown = left.popleft()
                yield numbers[shown], frame, wanted[shown]
                if not left:
                    return
                resume = begin[left[0]]
            if resume > place + 1:
                video.codec_context.flush_buffers()


def _wanted(times: Times, points: list[float]) -> Counter[int]:
    """When the frames begin that are shown at the points, in ticks, and at how many of them."""
    shown = sorted(ticks for ticks, _ in times.packets)
    seconds = [(ticks - shown[0]) * times.tick - _near(times) for ticks in shown]
    return Counter(shown[max(bisect_right(seconds, point) - 1, 0)] for point in points)


def _begin(times: Times, place: int) -> int:
    """Where in the file decoding begins for a frame: at a keyframe that is shown no later."""
    shown = times.packets[place][0]
    keyframes = (
        before
        for before in range(place, -1, -1)
        if times.packets[before][1] and times.packets[before][0] <= shown
    )
    return next(keyframes, 0)


def in_order(stream: BinaryIO, times: Times, points: list[float]) -> Iterator[Chosen]:
    """The frame shown at each point, by decoding all up to the last; one is kept at a time."""
    near = _near(times)
    done = 0
    kept: tuple[int, av.VideoFrame] | None = None
    at = 0.0
    with container(stream) as file:
        decoded = timely(file.decode(_video(file, times)), times.most_s)
        for index, frame in enumerate(decoded):
            at = _time(frame, index, times)
            ready = 0
            while done + ready < len(points) and points[done + ready] < at - near:
                ready += 1
            if kept is not None and ready:
                yield *kept, ready
                done += ready
            if done == len(points):
                return
            kept = index, frame
        if kept is not None and at >= times.last - times.start - 0.5 / times.rate:
            yield *kept, len(points) - done


def _time(frame: av.VideoFrame, index: int, times: Times) -> float:
    """Seconds from the start at which a frame is shown."""
    stamp = frame.pts if frame.pts is not None else frame.dts
    if stamp is None or frame.time_base is None:
        return index / times.rate
    return float(stamp * frame.time_base) - times.start


def _near(times: Times) -> float:
    """Times are rounded to ticks: a frame that begins within one after a point is shown there."""
    return min(times.tick, 0.25 / times.rate)


def _video(file: av.container.InputContainer, times: Times) -> av.VideoStream:
    return next(one for one in file.streams.video if one.index == times.stream)
