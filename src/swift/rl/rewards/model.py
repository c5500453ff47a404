"""A reward model: a checkpoint that reads a conversation and says one number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError
from swift.rl.rewards.steps import StepModel


def reward_model(path: Path, renderer: Renderer, device: torch.device) -> Any:
    """A checkpoint that judges: conversations as a whole, or the steps of an answer.

    Raises:
        ConfigError: it judges neither.
    """
    names = AutoConfig.from_pretrained(path).architectures or []
    tagging = any(name.endswith("ForTokenClassification") for name in names)
    return (StepModel if tagging else RewardModel)(path, renderer, device)


class RewardModel:
    """Scores conversations; tokens are those of the checkpoint's own template."""

    def __init__(self, path: Path, renderer: Renderer, device: torch.device) -> None:
        self._renderer, self._device = renderer, device
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        if model.config.num_labels != 1:
            raise ConfigError(
                f"--reward_model: {path} has {model.config.num_labels} classes; a reward model "
                "says one number"
            )
        self._model = model.to(device).eval()

    @torch.no_grad()
    def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Message]], **columns: Any
    ) -> list[float | None]:
        """The score of each conversation with its answer; one at a time, so padding is none."""
        scores: list[float | None] = []
        for text, said in zip(completions, messages, strict=True):
            whole = Conversation((*said, Message("assistant", text)))
            tokens = self._renderer.render(whole, "all")[0].tokens
            ids = torch.tensor([tokens], device=self._device)
            scores.append(float(self._model(input_ids=ids).logits[0, 0]))
        return scores
