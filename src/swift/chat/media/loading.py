"""Transformers' processor of a folder, also where its video part cannot be made.

Transformers makes the part of a processor that reads video with torchvision alone. Where that is
not installed, a processor is made of its other parts, by the constructors that transformers calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.errors import RenderError

FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a folder keeps the settings of its processor."""

_VIDEO, _VIDEO_FILE = "video_processor", "video_preprocessor_config.json"
_NAMES = (*FILES, _VIDEO_FILE, "tokenizer_config.json")


def load_processor(folder: str, *, trust_remote_code: bool = False) -> Any:
    """Transformers' processor of a folder.

    Raises:
        RenderError: it cannot be made.
    """
    from transformers import AutoProcessor, ProcessorMixin

    try:
        kind = None if _video_can_be_made() else _class(Path(folder))
        if kind is not None and _VIDEO in kind.get_attributes():
            return _without_video(kind, folder, trust_remote_code)
        found = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if isinstance(found, ProcessorMixin):
            return found
        why = f"transformers finds no processor in its files, only a {type(found).__name__}"
    except ImportError as error:
        why = f"it needs a package that is not installed: {_first_line(error)}"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = _first_line(error)
        if "trust_remote_code" in str(error):
            why = "it brings its own Python code; if you trust it: --trust_remote_code true"
    raise RenderError(f"the processor of this checkpoint cannot be loaded: {why}")


def reads_videos(processor: Any) -> bool:
    """Whether the part of a processor that reads video was made."""
    part = processor.video_processor
    return part is not None and not isinstance(part, _Video)


def _video_can_be_made() -> bool:
    from transformers.utils.import_utils import is_torchvision_available

    return bool(is_torchvision_available())


def _class(folder: Path) -> Any:
    """The class of a folder's processor in transformers, by the folder's files, else by its model;
    None: it is none of theirs.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for name in _NAMES:
        file = folder / name
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if found := said.get("processor_class"):
            return getattr(transformers, found, None)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError):
        return None
    return PROCESSOR_MAPPING.get(type(config), None)


def _without_video(kind: Any, folder: str, trust_remote_code: bool) -> Any:
    """A processor of a class, made of its parts but the one for video."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    makers: dict[str, Any] = {
        "tokenizer": AutoTokenizer,
        "image_processor": AutoImageProcessor,
        "feature_extractor": AutoFeatureExtractor,
    }

    settings, _ = kind.get_processor_dict(folder)

    def check(self: Any, name: str, part: Any) -> Any:
        return None if name == _VIDEO else kind.check_argument_for_proper_class(self, name, part)

    made: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    parts = [
        _Video(_video_settings(Path(folder), settings))
        if name == _VIDEO
        else makers[name].from_pretrained(folder, trust_remote_code=trust_remote_code)
        for name in kind.get_attributes()
    ]
    return made.from_args_and_dict(parts, settings)


class _Video(dict[str, Any]):
    """Settings of the part that reads video, in its place."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _video_settings(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a folder says of the part that reads video."""
    file = folder / _VIDEO_FILE
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {**said, **settings.get(_VIDEO, {})}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))
