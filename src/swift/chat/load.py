"""The renderer of a checkpoint folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from swift.chat.boxes import BoxStyle
from swift.chat.media.processor import MediaSpec
from swift.chat.media.settings import Keep, MediaSettings
from swift.chat.render import Renderer, RendererSpec
from swift.config.model import LoadSection
from swift.errors import ConfigError
from swift.hub.locate import cache_dir

_TEMPLATES = files("swift.chat") / "templates"


def load_renderer(
    folder: Path,
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    prefix: str = "",
    media: MediaSettings | None = None,
    boxes: BoxStyle | None = None,
    trust_remote_code: bool = False,
) -> Renderer:
    """Read tokenizer, chat template and stop ids of a checkpoint.

    Args:
        folder: a local checkpoint.
        chat_template: a Jinja file to use instead of the checkpoint's template, or the name of one
            that comes along.
        template_kwargs: what else the template reads, such as ``enable_thinking``.
        prefix: how every answer begins.
        media: how images are read, where the checkpoint takes some.
        boxes: how places in images are written.
        trust_remote_code: allow a tokenizer, or a processor, that brings its own code.

    Raises:
        ConfigError: there is no tokenizer, or the template file cannot be read.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    templates = template_of(chat_template) or tokenizer.chat_template
    if isinstance(templates, str):
        templates = {"default": templates}
    spec = RendererSpec(
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        templates=templates or {},
        variables={
            **{k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
            **(template_kwargs or {}),
        },
        end_ids=tuple(sorted(_end_ids(folder, tokenizer))),
        eos_id=tokenizer.eos_token_id,
        prefix=prefix,
        media=MediaSpec.of(folder, media, trust_remote_code=trust_remote_code),
        boxes=boxes or BoxStyle(),
    )
    return Renderer(spec)


def renderer_for(folder: Path, section: LoadSection) -> Renderer:
    """The renderer of a checkpoint, as a run's model section wants it."""
    thinking = {} if section.thinking is None else {"enable_thinking": section.thinking}
    return load_renderer(
        folder,
        chat_template=section.chat_template,
        template_kwargs={**thinking, **section.template_kwargs},
        prefix=section.response_prefix or "",
        media=media_of(section),
        boxes=BoxStyle(section.bbox_format, section.norm_bbox),
        trust_remote_code=section.trust_remote_code,
    )


def for_others(renderer: Renderer, max_image_pixels: int, max_bytes: int) -> Renderer:
    """A renderer that reads media as before, but of people who are not known: in narrow limits.

    Args:
        renderer: it is itself what is returned, where it reads no media or has those limits.
        max_image_pixels: see :meth:`swift.chat.media.settings.MediaSettings.for_others`.
        max_bytes: see there.
    """
    media = renderer.spec.media
    if media is None:
        return renderer
    settings = media.settings.for_others(max_image_pixels, max_bytes)
    if settings == media.settings:
        return renderer
    return Renderer(replace(renderer.spec, media=replace(media, settings=settings)))


def media_of(section: LoadSection) -> MediaSettings:
    """How media are read.

    Raises:
        ConfigError: what is asked for cannot be meant.
    """
    return MediaSettings(
        allow_remote=section.allow_remote_media,
        max_pixels=section.max_pixels,
        min_pixels=section.min_pixels,
        fps=section.fps,
        max_frames=section.max_frames,
        min_frames=section.min_frames,
        sampling_rate=section.sampling_rate,
        keep=keep_of(section),
    )


def keep_of(section: LoadSection) -> Keep:
    """How much of what is made of media is kept."""
    folder = str(cache_dir() / "media") if section.media_cache else None
    memory, disk = section.media_memory_mib << 20, int(section.media_cache_gib * (1 << 30))
    return Keep(memory, folder, disk)


def template_of(name: str | None) -> str | None:
    """The text of a template that comes along, or of a file; None without a name.

    Raises:
        ConfigError: it cannot be read.
    """
    if name is None:
        return None
    along = {path.name.removesuffix(".jinja"): path for path in _TEMPLATES.iterdir()}
    try:
        if name in along and not Path(name).is_file():
            return along[name].read_text(encoding="utf-8")
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            f"--chat_template: {name}: {why}; without it the checkpoint's own template is used, "
            f"and {', '.join(sorted(along))} come along"
        ) from None


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Transformers' tokenizer of a folder.

    Raises:
        ConfigError: the folder has none that can be used.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"--model: {folder} has no tokenizer that can be read: {reason}"
        ) from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"--model: {folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def _end_ids(folder: Path, tokenizer: Any) -> set[int]:
    """The ids that tokenizer, generation_config.json and config.json name as an end."""
    found: set[int] = set()
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            said = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            found |= {said} if isinstance(said, int) else set(said or ())
    return found
