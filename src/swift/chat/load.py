"""The renderer of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.chat.render import Renderer, RendererSpec
from swift.errors import ConfigError


def load_renderer(
    folder: Path, *, chat_template: str | None = None, trust_remote_code: bool = False
) -> Renderer:
    """Read tokenizer, chat template and stop ids of a checkpoint.

    Args:
        folder: a local checkpoint.
        chat_template: a Jinja file to use instead of the checkpoint's template.
        trust_remote_code: allow a tokenizer that brings its own code.

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
        variables={k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)},
        end_ids=tuple(sorted(_end_ids(folder, tokenizer))),
        eos_id=tokenizer.eos_token_id,
    )
    return Renderer(spec)


def template_of(file: str | None) -> str | None:
    """The text of a template file; None without one.

    Raises:
        ConfigError: it cannot be read.
    """
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"--chat_template: {file}: {why}") from None


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
