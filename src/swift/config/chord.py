"""CHORD: conversations of experts, learned beside the policy's own answers."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.section import Section, Strings


class ChordSection(Section):
    """Conversations of experts, learned beside the policy's own answers (CHORD, arXiv:2508.11408).

    The loss of a step is (1 - mu) times the policy's and mu times that of fine-tuning; mu rises to
    mu_peak over mu_warmup_steps and falls to mu_valley over mu_decay_steps, as a cosine does.
    """

    dataset: Strings = []
    """Conversations to learn from: as data.train. Default: none, and nothing of this is done."""

    batch_size: int = Field(1, ge=1)
    """Conversations beside each micro-batch on one device."""

    mu_peak: float | None = Field(None, ge=0, le=1)
    """The largest mu."""

    mu_valley: float | None = Field(None, ge=0, le=1)
    """Mu at the end."""

    mu_warmup_steps: int | None = Field(None, ge=0)
    """Steps in which mu rises from 0."""

    mu_decay_steps: int | None = Field(None, ge=0)
    """Steps in which it falls."""

    phi: bool = False
    """Weight tokens by p (1 - p) of their probability p: least where the policy is sure or knows
    nothing of them (CHORD-phi)."""

    @model_validator(mode="after")
    def _check(self) -> ChordSection:
        names = ("mu_peak", "mu_valley", "mu_warmup_steps", "mu_decay_steps")
        absent = [name for name in names if getattr(self, name) is None]
        path, why = "", ""
        if self.dataset and absent:
            path, why = absent[0], "is needed with chord_sft_dataset"
        elif not self.dataset and (self.phi or len(absent) < len(names)):
            path, why = "dataset", "is needed: what experts said"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"chord.{path}", "why": why})
        return self
