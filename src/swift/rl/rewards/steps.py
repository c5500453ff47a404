"""A process reward model: a checkpoint that reads an answer and judges each of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from swift.chat.message import Message
from swift.chat.render import Renderer
from swift.data.labelled import in_steps
from swift.errors import ConfigError
from swift.infer.scoring import on


class StepModel:
    """Scores answers by their worst step. Every line of an answer that is not empty is a step."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, device: torch.device) -> None:
        """Take a model of ``swift rlhf --rlhf_type prm``.

        Raises:
            ConfigError: it does not tell right from wrong.
        """
        self._renderer, self._device = renderer, device
        if model.config.num_labels != 2:
            raise ConfigError(
                f"--prm_model: {model.name_or_path} has {model.config.num_labels} classes of a "
                "token; a process reward model has two, wrong and right"
            )
        self._model = on(model, device)

    def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Message]], **columns: Any
    ) -> list[float | None]:
        """The probability that the worst step of each answer is right; None: it has no steps."""
        pairs = zip(completions, messages, strict=True)
        return [min(self.steps(text, said), default=None) for text, said in pairs]

    @torch.no_grad()
    def steps(self, text: str, said: Sequence[Message]) -> list[float]:
        """The probability that each step is right."""
        lines = [line for line in text.splitlines() if line.strip()]
        tokens, ends = in_steps(self._renderer.prompt(said), lines, self._renderer)
        if not ends:
            return []
        ids = torch.tensor([tokens], device=self._device)
        found: list[float] = self._model(input_ids=ids).logits[0, ends].softmax(-1)[:, 1].tolist()
        return found
