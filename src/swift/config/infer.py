"""How answers are generated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Section, Strings


class InferSection(Section):
    """How answers are generated."""

    backend: Literal["transformers"] = "transformers"
    """The engine."""

    max_new_tokens: int = Field(2048, ge=1)
    """Longest answer in tokens."""

    temperature: float = Field(0.0, ge=0)
    """Randomness of the choice of a token; 0: always the most likely one."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the most likely tokens that together have this probability."""

    top_k: int = Field(0, ge=0)
    """Choose among this many most likely tokens; 0: all."""

    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1: tokens that were used before become less likely (arXiv:1909.05858)."""

    stop: Strings = []
    """Texts that end an answer; they are not part of it."""

    seed: int | None = None
    """Seed of the random choices."""

    image: Strings = []
    """Images that are shown with the first message of a chat."""

    video: Strings = []
    """Videos that are shown with the first message of a chat."""

    audio: Strings = []
    """Sounds that are played with the first message of a chat."""

    stream: bool = True
    """Show an answer token by token in the chat."""

    batch_size: int = Field(8, ge=1)
    """Rows answered at once when a whole data set is answered."""
