"""A reward model: a checkpoint that reads a conversation and says one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.infer.scoring import is_adapter, load_scoring, on, scoring_bytes
from swift.models.anatomy import scores_tokens
from swift.rl.rewards.steps import StepModel


def judging(name: str, device: torch.device, hub: str, say: Callable[[str], None]) -> Any:
    """A model that judges by its name: conversations as a whole, or the steps of an answer.

    Args:
        name: of a model, or the folder of an adapter, as training leaves them.
        device: where it computes.
        hub: where names are looked up.
        say: told what takes long.

    Raises:
        ConfigError: it judges neither.
    """
    folder = _folder(name, hub, say)
    model = load_scoring(folder)
    kind = StepModel if scores_tokens(model) else RewardModel
    return kind(model, load_renderer(folder), device)


def judges(
    names: Sequence[str], device: torch.device, hub: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Such models by what metrics call them."""
    return {f"model {Path(name).name}": judging(name, device, hub, say) for name in names}


def judge_bytes(name: str, hub: str, say: Callable[[str], None]) -> int:
    """Bytes of the weights of such a model."""
    return scoring_bytes(_folder(name, hub, say))


def _folder(name: str, hub: str, say: Callable[[str], None]) -> Path:
    folder = Path(name).expanduser()
    return folder if is_adapter(folder) else locate_model(name, hub=hub, dtype="float32", say=say)


class RewardModel:
    """Scores conversations; tokens are those of the checkpoint's own template."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, device: torch.device) -> None:
        """Take a model of one score.

        Raises:
            ConfigError: it has several.
        """
        self._renderer, self._device = renderer, device
        if model.config.num_labels != 1 or model.can_generate():
            raise ConfigError(
                f"--reward_model: {model.name_or_path} has {model.config.num_labels} classes; a "
                "reward model says one number"
            )
        self._model = on(model, device)

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
