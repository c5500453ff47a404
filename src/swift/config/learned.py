"""What every section that chooses an objective says of it."""

from __future__ import annotations

from typing import ClassVar

from swift.config.section import Section


class LearnedSection(Section):
    """What is learned, and by which loss."""

    kind: str

    task: ClassVar[str] = "chat"
    """What a row is (see data.formats.form.TASKS)."""

    @property
    def scores(self) -> int | None:
        """How many scores the model gives for a text. None: it writes text, or gives a vector."""
        return None


def scores_of(config: object) -> int | None:
    """How many scores the model of a command gives for a text. None: none."""
    for name in ("rlhf", "task"):
        section = getattr(config, name, None)
        if isinstance(section, LearnedSection):
            return section.scores
    return None
