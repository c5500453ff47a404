"""What a checkpoint learned with, beside its weights: does a server do the same?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift.chat.render import Renderer

FILE = "serving.json"

_WORDS = {
    "template": "the chat template",
    "tokenizer": "the tokenizer",
    "variables": "what the template is told",
    "stop_ids": "the tokens that end an answer",
    "prefix": "how every answer begins",
    "system": "the system prompt",
    "media": "how images are read",
}
_READING = ("max_pixels", "min_pixels", "fps", "max_frames", "min_frames", "sampling_rate")
"""Settings that decide what a model gets of a medium."""


def manifest(renderer: Renderer, system: str | None) -> dict[str, Any]:
    """All that decides which tokens a model is asked with."""
    spec = renderer.spec
    return {
        "template": _hash(json.dumps(dict(spec.templates), sort_keys=True)),
        "tokenizer": _hash(spec.tokenizer),
        "variables": dict(spec.variables),
        "stop_ids": sorted(renderer.stop_ids),
        "prefix": spec.prefix,
        "system": system,
        "media": spec.media and {
            "processor": spec.media.fingerprint,
            "max_image_pixels": spec.media.settings.max_image_pixels,
            **{name: getattr(spec.media.settings, name) for name in _READING},
        },
    }  # fmt: skip


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def text_of(renderer: Renderer, system: str | None) -> str:
    """The same as the content of its file."""
    return json.dumps(manifest(renderer, system), indent=2, ensure_ascii=False) + "\n"


def differences(folder: Path, renderer: Renderer, system: str | None) -> list[str]:
    """What a server does not do as the checkpoint in a folder learned it; one line each.

    Empty also where nothing is known of how it learned. A lower limit of pixels is no difference:
    what is read is read alike.
    """
    try:
        before = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    now = manifest(renderer, system)
    lines = []
    for name, words in _WORDS.items():
        was, here = _compared(before.get(name)), _compared(now[name])
        if was != here:
            shown = "" if name in ("template", "tokenizer", "media") else f": {was!r}, now {here!r}"
            lines.append(f"{words} is not what {folder.name} learned with{shown}")
    return [*lines, *_read_otherwise(before.get("media"), now["media"], folder.name)]


def _read_otherwise(before: Any, now: Any, folder: str) -> list[str]:
    """Settings by which media are read otherwise, as far as both are known."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return []
    return [
        f"--{name} is not what {folder} learned with: {before[name]!r}, now {now[name]!r}"
        for name in _READING
        if name in before and before[name] != now[name]
    ]


def _compared(value: Any) -> Any:
    return value.get("processor") if isinstance(value, Mapping) and "processor" in value else value
