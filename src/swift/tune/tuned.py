"""A model that is ready to learn."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tuned:
    """The model, and PEFT's view of it when an adapter learns beside it."""

    model: PreTrainedModel
    peft: PeftModel | None = None
