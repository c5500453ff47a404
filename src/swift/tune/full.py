"""Every weight learns, but those of frozen parts and those frozen by name."""

from __future__ import annotations

import re

from transformers import PreTrainedModel

from swift.config.tuner import FullSection
from swift.errors import ConfigError
from swift.models.parts import parts
from swift.tune.frozen import frozen_parts, nothing_left
from swift.tune.tuned import Tuned


def attach(section: FullSection, model: PreTrainedModel, adapters: list[str], base: str) -> Tuned:
    """Mark which weights learn.

    Raises:
        ConfigError: a name or pattern that matches nothing, or nothing is left to learn.
    """
    if adapters:
        raise ConfigError(
            "--adapters with --tuner_type full: merge them first (--merge_lora true), "
            "or train them on (--tuner_type lora)"
        )
    names = [name for name, _ in model.named_parameters()]
    _must_match(names, [*section.freeze, *section.learn], "--freeze_parameters")
    pattern = _pattern(section.freeze_regex, names)
    found = parts(model)
    kept = frozen_parts(section, found)
    for name, parameter in model.named_parameters():
        frozen = (
            found.of(name) in kept
            or name.startswith(tuple(section.freeze))
            or bool(pattern and pattern.search(name))
        )
        parameter.requires_grad_(not frozen or name.startswith(tuple(section.learn)))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            nothing_left(kept) if kept else "--freeze_parameters: nothing is left to learn"
        )
    return Tuned(model)


def _pattern(text: str | None, names: list[str]) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(text) if text else None
    except re.error as error:
        raise ConfigError(f"--freeze_parameters_regex: {text!r}: {error}") from None
    if pattern and not any(pattern.search(name) for name in names):
        raise ConfigError(
            f"--freeze_parameters_regex: {text!r} fits no parameter, such as {names[0]!r}"
        )
    return pattern


def _must_match(names: list[str], starts: list[str], flag: str) -> None:
    unused = [start for start in starts if not any(name.startswith(start) for name in names)]
    if unused:
        raise ConfigError(f"{flag}: no parameter begins with {unused[0]!r}, but with {names[0]!r}")
