"""What a checkpoint's own processor makes of media: the tokens that stand for them, and features.

Nothing is computed here. Transformers' processor of the checkpoint resizes, cuts and normalizes,
and says how many tokens a medium takes; which of its control tokens is a medium's mark is found by
trying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from swift.chat.media.image import open_image
from swift.chat.media.loading import FILES, load_processor
from swift.chat.media.settings import MediaSettings
from swift.chat.media.types import NAMES, Rows, Types, token_types
from swift.chat.message import Media
from swift.errors import DataError, RenderError

_TEXT = ("input_ids", "attention_mask", "position_ids", "labels", *NAMES)
_PROBE = Image.new("RGB", (64, 48), (90, 120, 150))

Array = np.ndarray[Any, Any]


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

    def read(self, media: Sequence[Media]) -> list[Image.Image]:
        """Media as the processor takes them.

        Raises:
            DataError: one cannot be read.
            RenderError: it is of a kind that is not known here.
        """
        for one in media:
            if one.kind != "image":
                raise RenderError(f"{one.kind} is not supported yet, images are")
        return [open_image(str(one.source), settings=self._spec.settings) for one in media]

    def ids(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        """The tokens of a text with marks, and of the media that stand at them."""
        return [int(id) for id in self.call(text, images)["input_ids"][0]]

    def features(self, text: str, images: Sequence[Image.Image]) -> dict[str, Array]:
        """What the model reads beside the tokens, by the names of its arguments."""
        found = self.call(text, images)
        return {name: value for name, value in found.items() if name not in _TEXT}

    def types(self, rows: Rows) -> Types:
        """Types of the tokens of samples that are laid end to end."""
        return token_types(self._processor, rows)

    def call(self, text: str, images: Sequence[Image.Image]) -> dict[str, Array]:
        """All that the processor makes of a text with marks and its images.

        Raises:
            DataError: it cannot take them.
        """
        options: dict[str, Any] = {"add_special_tokens": False, "return_tensors": "np"}
        if images:
            options["images"] = list(images)
        try:
            found = self._processor(text=[text], **options)
            return {name: np.asarray(value) for name, value in found.items()}
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise DataError(f"the checkpoint's processor cannot take it: {error}") from None

    def is_mark(self, token: str) -> bool:
        """Whether an image can stand at a control token: the processor makes more of it then."""
        try:
            return len(self.ids(token, [_PROBE])) > 1
        except DataError:
            return False

    @cached_property
    def names(self) -> list[str]:
        """The control token that the processor itself calls its image token."""
        found = [getattr(self._processor, name, None) for name in ("image_token", "boi_token")]
        return [token for token in found if isinstance(token, str)]
