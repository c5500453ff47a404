"""What a checkpoint's own processor makes of media: the tokens that stand for them, and features.

Nothing is computed here. Transformers' processor of the checkpoint resizes, cuts and normalizes,
and says how many tokens a medium takes; which of its control tokens is a medium's mark is found by
trying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swift.chat.media.audio import Audio, open_audio
from swift.chat.media.image import open_image
from swift.chat.media.loading import FILES, load_processor, reads_videos
from swift.chat.media.settings import MediaSettings
from swift.chat.media.types import NAMES, Rows, Types, token_types
from swift.chat.media.video import Video, open_video
from swift.chat.message import Kind, Media
from swift.errors import ConfigError, DataError, RenderError

TEXT = ("input_ids", "attention_mask", "position_ids", "labels", *NAMES)
"""What a processor makes of the text: the rest are features."""
_FRAMES = 4  # of the video on which marks are tried
_RATE = 16_000  # samples per second where a checkpoint names none

Array = np.ndarray[Any, Any]
Value = Image.Image | Video | Audio
"""A medium that was read."""


@dataclass(frozen=True)
class MediaSpec:
    """A checkpoint's processor as plain data."""

    folder: str
    fingerprint: str  # of its settings
    settings: MediaSettings = field(default_factory=MediaSettings)
    trust_remote_code: bool = False  # of the checkpoint

    @classmethod
    def of(
        cls,
        folder: Path,
        settings: MediaSettings | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> MediaSpec | None:
        """The processor of a folder; None: it takes text alone."""
        files = [folder / name for name in FILES if (folder / name).is_file()]
        if not files:
            return None
        settings = settings or MediaSettings()
        content = b"".join(file.read_bytes() for file in files)
        fingerprint = hashlib.sha256(content).hexdigest()
        return cls(str(folder), fingerprint, settings, trust_remote_code)


class Processor:
    """Transformers' processor of a checkpoint."""

    def __init__(self, spec: MediaSpec) -> None:
        self._spec = spec

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self._spec.folder, trust_remote_code=self._spec.trust_remote_code)

    def as_what(self, kind: Kind) -> Kind:
        """The kind as which the processor takes a medium: where it knows no video, its frames.

        Raises:
            RenderError: it knows videos, and the package that it reads them with is missing.
        """
        if kind != "video" or "video_processor" not in type(self._processor).get_attributes():
            return "image" if kind == "video" else kind
        if not reads_videos(self._processor):
            raise RenderError(
                "a video: transformers reads videos for this checkpoint with torchvision, which is "
                "not installed (one that fits the installed torch)"
            )
        return kind

    def read(self, medium: Media) -> list[Value]:
        """A medium as the processor takes it: one value, or the frames of a video.

        Raises:
            DataError: it cannot be read.
        """
        settings, source = self._settings, medium.source
        if medium.kind == "audio":
            return [open_audio(str(source), settings=settings)]
        if medium.kind == "image":
            return [_within(open_image(str(source), settings=settings), self._most)]
        video = open_video(source, settings=settings)
        if self.as_what("video") == "video":
            return [video]
        return [_within(Image.fromarray(frame), self._most) for frame in video.frames]

    def ids(self, text: str, values: Sequence[Value]) -> list[int]:
        """The tokens of a text with marks, and of the media that stand at them."""
        return [int(id) for id in self.call(text, values)["input_ids"][0]]

    def features(self, text: str, values: Sequence[Value]) -> dict[str, Array]:
        """What the model reads beside the tokens, by the names of its arguments."""
        found = self.call(text, values)
        return {name: value for name, value in found.items() if name not in TEXT}

    def types(self, rows: Rows) -> Types:
        """Types of the tokens of samples that are laid end to end."""
        return token_types(self._processor, rows)

    def call(self, text: str, values: Sequence[Value]) -> dict[str, Array]:
        """All that the processor makes of a text with marks and its media.

        Args:
            text: has a mark for each value.
            values: what stands at the marks, in their order.

        Raises:
            DataError: it cannot take them.
        """
        options = {"add_special_tokens": False, "return_tensors": "np", **_arguments(values)}
        if values:
            options |= self._pixels
        try:
            found = self._processor(text=[text], **options)
            return {name: np.asarray(value) for name, value in found.items()}
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise DataError(f"the checkpoint's processor cannot take it: {error}") from None

    def probe(self, kind: Kind, number: int = 0) -> Value:
        """Something small of a kind, to try things on; each number is another."""
        random = np.random.default_rng(number)
        width, height = ((64, 48), (40, 90), (56, 48))[number % 3]
        if kind == "audio":
            rate = self._settings.sampling_rate or _RATE
            samples = random.normal(0, 0.1, rate // 2 * (number % 3 + 1))
            return Audio(samples.astype(np.float32), rate)
        if kind == "image":
            pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            return Image.fromarray(pixels)
        count = _FRAMES + 2 * (number % 3)
        frames = random.integers(0, 255, (count, height, width, 3), dtype=np.uint8)
        return Video(frames, 2.0, count / 2, tuple(range(count)))

    def is_mark(self, token: str, kind: Kind = "image") -> bool:
        """Whether a medium can stand at a control token: the processor makes more of it then."""
        try:
            return len(self.ids(token, [self.probe(kind)])) > 1
        except DataError:
            return False

    def names(self, kind: Kind = "image") -> list[str]:
        """The control tokens that the processor itself calls those of a kind."""
        names = (f"{kind}_token", *(("boi_token",) if kind == "image" else ()))
        found = [getattr(self._processor, name, None) for name in names]
        return [token for token in found if isinstance(token, str)]

    @cached_property
    def _settings(self) -> MediaSettings:
        """How media are read; sounds at the rate that the checkpoint was trained with.

        Raises:
            ConfigError: another one is asked for.
        """
        names = ("feature_extractor", "audio_processor")
        rates = (getattr(getattr(self._processor, n, None), "sampling_rate", None) for n in names)
        own = next((rate for rate in rates if isinstance(rate, int)), None)
        asked = self._spec.settings.sampling_rate
        if own and asked not in (None, own):
            raise ConfigError(
                f"--sampling_rate {asked}: this checkpoint hears {own} samples a second; leave it "
                "out, sounds are resampled"
            )
        return replace(self._spec.settings, sampling_rate=own or asked or _RATE)

    @cached_property
    def _pixels(self) -> dict[str, int]:
        """Bounds of pixels that the checkpoint's own processor of images keeps.

        Raises:
            ConfigError: it has to make images larger and has no setting for that.
        """
        known = self._knows_pixels
        asked = {
            name: value
            for name in ("max_pixels", "min_pixels")
            if (value := getattr(self._spec.settings, name)) is not None
        }
        if "min_pixels" in asked and "min_pixels" not in known:
            raise ConfigError(
                "--min_pixels: the processor of this checkpoint gives images sizes of its own; "
                "leave it out"
            )
        return {name: value for name, value in asked.items() if name in known}

    @property
    def _most(self) -> int | None:
        """Pixels to which larger images are scaled down before the processor sees them."""
        return None if "max_pixels" in self._knows_pixels else self._spec.settings.max_pixels

    @cached_property
    def _knows_pixels(self) -> set[str]:
        images = getattr(self._processor, "image_processor", None)
        known = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
        return {"max_pixels", "min_pixels"} & set(known)

    def resized(self, made: Mapping[str, Array]) -> tuple[int, int] | None:
        """Width and height to which an image was resized as a whole.

        Args:
            made: all that was made of it.

        Returns:
            None: not as a whole, or what was resized is cut or filled up.
        """
        images: Any = getattr(self._processor, "image_processor", None)
        grid, pixels = made.get("image_grid_thw"), made.get("pixel_values")
        if grid is not None:
            side = int(images.patch_size)
            return int(grid[0, 2]) * side, int(grid[0, 1]) * side
        cut = any(getattr(images, name, False) for name in ("do_center_crop", "do_pad"))
        if cut or pixels is None or pixels.ndim != 4 or len(pixels) != 1:
            return None
        return int(pixels.shape[3]), int(pixels.shape[2])


def _arguments(values: Sequence[Value]) -> dict[str, Any]:
    """Media by the names of a processor's arguments."""
    images = [value for value in values if isinstance(value, Image.Image)]
    videos = [value for value in values if isinstance(value, Video)]
    sounds = [value for value in values if isinstance(value, Audio)]
    found: dict[str, Any] = {"images": images} if images else {}
    if videos:
        found["videos"] = [video.frames for video in videos]
        found["video_metadata"] = [_metadata(video) for video in videos]
        found["do_sample_frames"] = False
    if sounds:
        found["audio"] = [sound.samples for sound in sounds]
        found["sampling_rate"] = sounds[0].rate
    return found


def _metadata(video: Video) -> dict[str, Any]:
    """Of the frames that were sampled, which are a video of their own to the processor."""
    count = len(video.frames)
    return {
        "total_num_frames": count, "fps": video.fps, "frames_indices": list(range(count)),
        "duration": count / video.fps, "height": video.frames.shape[1],
        "width": video.frames.shape[2],
    }  # fmt: skip


def _within(image: Image.Image, most: int | None) -> Image.Image:
    """An image of at most so many pixels, as wide to its height as before."""
    width, height = image.size
    if most is None or width * height <= most:
        return image
    scale = (most / (width * height)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)
