"""What a user may say about reading media."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from swift.errors import ConfigError

MAX_IMAGE_PIXELS = 178_956_970  # where Pillow itself refuses
MAX_BYTES = 2 << 30
MAX_VIDEO_PIXELS = 4 << 30  # of all frames that are taken together: 12 GiB
MAX_SAMPLES = 2 * 3600 * 192_000
_DECODING_S = 60.0


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of what is made of media is kept.

    Attributes:
        memory_bytes: in the memory of every process that prepares some.
        folder: where all of it is kept on disk; None: nowhere.
        disk_bytes: in that folder.
    """

    memory_bytes: int = 256 << 20
    folder: str | None = None
    disk_bytes: int = 10 << 30


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Limits of media, and how videos and sounds are sampled.

    Attributes:
        max_image_pixels: an image of more, or a video with larger frames, is refused before it is
            decoded. Pillow's own limit holds beside it.
        max_bytes: a file of more is refused.
        max_audio_s: a sound of more seconds is refused: a small file may hold days of silence.
        max_samples: a sound of more is refused, whatever its rate.
        max_video_pixels: a video is refused of which the frames that are taken have more together.
        max_decode_s: reading of a sound or video is given up after so long.
        allow_remote: media on the network (http, https) are read.
        max_pixels: images of more are made smaller, by the checkpoint's processor where it has such
            a setting.
        min_pixels: images of fewer are made larger by the checkpoint's processor.
        fps: frames of a video taken per second; None takes as many as it has.
        max_frames: at most so many frames are taken; where it binds, they lie further apart.
        min_frames: at least so many, closer together; a frame is repeated where there are fewer.
        sampling_rate: of sounds, in Hz; None leaves them at their own.
        keep: how much of what is made of media is kept.

    Raises:
        ConfigError: a value that cannot be meant.
    """

    max_image_pixels: int = MAX_IMAGE_PIXELS
    max_bytes: int = MAX_BYTES
    max_audio_s: float = 2 * 3600.0
    max_samples: int = MAX_SAMPLES
    max_video_pixels: int = MAX_VIDEO_PIXELS
    max_decode_s: float | None = None
    allow_remote: bool = False
    max_pixels: int | None = None
    min_pixels: int | None = None
    fps: float | None = None
    max_frames: int = 768
    min_frames: int = 1
    sampling_rate: int | None = None
    keep: Keep = field(default_factory=Keep)

    @property
    def deciding(self) -> MediaSettings:
        """The same without what is only about keeping."""
        return replace(self, keep=Keep())

    def for_others(self, max_image_pixels: int, max_bytes: int) -> MediaSettings:
        """The same with narrow limits, for media of people who are not known.

        Media are read as before: what they are sampled and resized to stays.

        Args:
            max_image_pixels: of an image, and a quarter of what a video's frames have together.
            max_bytes: of a file, and a quarter of the samples that a sound may have.
        """
        return replace(
            self,
            max_image_pixels=min(max_image_pixels, self.max_image_pixels),
            max_bytes=min(max_bytes, self.max_bytes),
            max_samples=min(4 * max_bytes, self.max_samples),
            max_video_pixels=min(4 * max_image_pixels, self.max_video_pixels),
            max_decode_s=min(_DECODING_S, self.max_decode_s or _DECODING_S),
            allow_remote=False,
        )

    def __post_init__(self) -> None:
        problems = [
            f"{name} should be above 0, this is {value}"
            for name in (
                *("max_image_pixels", "max_bytes", "max_audio_s", "max_pixels", "min_pixels"),
                *("fps", "max_frames", "min_frames", "sampling_rate", "max_samples"),
                *("max_video_pixels", "max_decode_s"),
            )
            if (value := getattr(self, name)) is not None
            and not (value > 0 and math.isfinite(value))
        ]
        if self.min_frames > self.max_frames:
            problems.append(f"min_frames={self.min_frames} is above max_frames={self.max_frames}")
        if problems:
            raise ConfigError(*problems)
