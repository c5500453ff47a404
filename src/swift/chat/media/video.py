"""A video as frames at even distances in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swift import registry
from swift.chat.media.image import open_image, size_of
from swift.chat.media.settings import MediaSettings
from swift.chat.media.source import shown
from swift.errors import DataError

FRAMES_FPS = 2.0
"""The rate of a video given as frames when nobody says one."""

registry.register(
    "media", "video", "swift.chat.media.video_file:open_file", needs="av", extra="media"
)


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Frames that were sampled of a video.

    Attributes:
        frames: uint8 (F, H, W, 3), red, green, blue; upright.
        fps: of these frames: they are 1 / fps seconds apart.
        seconds: how long the whole video is.
        indices: which frames of the video they are, from 0, in the order in which they are shown.
    """

    frames: NDArray[np.uint8]
    fps: float
    seconds: float
    indices: tuple[int, ...]


def open_video(
    source: str | tuple[str, ...],
    base: Path | None = None,
    settings: MediaSettings | None = None,
) -> Video:
    """Frames of a video, evenly spread over its time by :func:`spread`, the first always.

    Of a file, the frame at a time is the one that a player shows then, also when frames last
    differently long. A file that ends before its own header says is used only if no frame that is
    wanted is missing. A tuple names the frames themselves, which lie 1 / ``settings.fps`` (2 per
    second, if it is None) apart and are thinned out only for ``max_frames``.

    Args:
        source: where the video lies, or each of its frames in order.
        base: the folder that relative paths begin at.
        settings: limits, ``fps``, ``max_frames`` and ``min_frames``.

    Raises:
        DataError: it cannot be read, has no video in it, a frame that is wanted is missing or
            broken, or frames differ in size.
        MissingExtra: it is a file and PyAV is not installed.
    """
    settings = settings or MediaSettings()
    if isinstance(source, tuple):
        return _of_images(source, base, settings)
    video: Video = registry.load("media", "video")(source, base, settings)
    return video


def spread(seconds: float, rate: float, frames: int, settings: MediaSettings) -> tuple[int, float]:
    """How many frames to take of a video, and how many seconds apart.

    ``settings.fps`` of them per second, no more than the video has, and then no more than
    ``max_frames`` and no fewer than ``min_frames``. They begin at 0; where a limit binds they are
    spread over the whole length.

    Args:
        seconds: length of the video.
        rate: its frames per second, on average.
        frames: how many it has.
        settings: what is asked for.
    """
    wanted = min(settings.fps or rate, rate)
    count = min(max(math.ceil(seconds * wanted - 1e-6), 1), frames)
    allowed = max(min(count, settings.max_frames), settings.min_frames)
    if allowed == count and settings.fps is not None and settings.fps <= rate:
        return count, 1 / settings.fps
    return allowed, seconds / allowed


def check_together(
    source: str | tuple[str, ...], count: int, size: tuple[int, int], settings: MediaSettings
) -> None:
    """See that frames fit into the limit for all of a video.

    Raises:
        DataError: they do not.
    """
    if count * size[0] * size[1] > settings.max_video_pixels:
        raise DataError(
            f"{shown(source)}: {count} frames of {size[0]} x {size[1]} pixels, the limit for all "
            f"is max_video_pixels={settings.max_video_pixels}; make it smaller or shorter"
        )


def _of_images(names: Sequence[str], base: Path | None, settings: MediaSettings) -> Video:
    """A video whose frames lie in files of their own."""
    if not names:
        raise DataError("a video of no frames: name at least one image")
    rate = settings.fps or FRAMES_FPS
    total = len(names)
    count = max(min(total, settings.max_frames), settings.min_frames)
    indices = tuple(k * total // count for k in range(count))
    first = size_of(names[0], base, settings)
    for name in names:
        size = size_of(name, base, settings)
        if size != first:
            raise DataError(
                f"{shown(name)}: a frame of {size[0]} x {size[1]} in a video whose first frame is "
                f"{first[0]} x {first[1]}; all should be the same"
            )
    check_together(tuple(names), count, first, settings)
    frames = np.empty((count, first[1], first[0], 3), np.uint8)
    for place, index in enumerate(indices):
        if place and index == indices[place - 1]:
            frames[place] = frames[place - 1]
        else:
            frames[place] = np.asarray(open_image(names[index], base, settings))
    return Video(frames, rate * count / total, total / rate, indices)
