"""Which parts of a model stay as they are."""

from __future__ import annotations

from collections.abc import Collection

from swift.config.tuner import TunerSection
from swift.models.parts import Part, Parts

_FLAGS: dict[Part, str] = {
    "vision": "--freeze_vit", "audio": "--freeze_vit", "aligner": "--freeze_aligner",
    "language": "--freeze_llm",
}  # fmt: skip


def frozen_parts(section: TunerSection, parts: Parts) -> set[Part]:
    """The frozen parts, of those that a model has; a mere language model is never frozen."""
    if not parts.several:
        return set()
    frozen = {
        "vision": section.freeze_vit,
        "audio": section.freeze_vit,
        "aligner": section.freeze_aligner,
        "language": section.freeze_llm,
    }
    return {part for part in _FLAGS if frozen[part] and getattr(parts, part)}


def nothing_left(frozen: Collection[Part]) -> str:
    """What to say when no part is left to learn."""
    flags = list(dict.fromkeys(_FLAGS[part] for part in _FLAGS if part in frozen))
    return f"{' '.join(flags)}: nothing is left to learn; set one of them to false"
