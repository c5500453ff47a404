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

    @property
    def each_token(self) -> bool:
        """Whether it gives them for every token, not for the text as a whole."""
        return False


def scores_of(config: object) -> int | None:
    """How many scores the model of a command gives for a text. None: none."""
    for name in ("rlhf", "task"):
        section = getattr(config, name, None)
        if isinstance(section, LearnedSection):
            return section.scores
    return None


def each_token_of(config: object) -> bool:
    """Whether the model of a command gives its scores for every token."""
    sections = (getattr(config, name, None) for name in ("rlhf", "task"))
    return any(isinstance(x, LearnedSection) and x.each_token for x in sections)
