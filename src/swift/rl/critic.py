"""What a token is worth: a value head on the policy's hidden states, or a model of its own.

A critic learns with the policy and is kept in its checkpoints beside what the run needs
(``trainer/critic.safetensors``), apart from the weights that are served.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.ppo import PpoSection
from swift.data.batch import Batch
from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.models.anatomy import output_head, text_config, vocabulary
from swift.models.attention import Layout, check_branches, choose_layout, run_body
from swift.models.load import load_model, load_shape
from swift.train.memory import Beside
from swift.train.plan import probe_of
from swift.train.session import Session
from swift.tune.tuned import Tuned


class ValueHead(nn.Module):
    """One number for a hidden state, in float32; 0 for all at the start."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, batch: Batch, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Values (N,) of the states in which the learned tokens of a batch were chosen."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            value_N: torch.Tensor = self.score(hidden_ND.float())[:, 0]
        return value_N


class ValueModel(nn.Module):
    """A model with a single output, which reads what the policy reads."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, hidden_ND: torch.Tensor) -> torch.Tensor:
        """As of :class:`ValueHead`; the hidden states of the policy are not used."""
        own_ND = run_body(self.model, batch).flatten(0, 1)[batch.learned_N]
        value_N: torch.Tensor = output_head(self.model)(own_ND)[:, 0]
        return value_N.float()


def critic_beside(
    session: Session, section: PpoSection, policy: PreTrainedModel, held: int
) -> Beside:
    """What the critic takes, besides ``held`` bytes of others: weights, gradients and AdamW's two
    averages in float32, and what a value model keeps for the backward pass.
    """
    if section.value_model is None:
        return Beside(held + 16 * (text_config(policy).hidden_size + 1))
    shape = load_shape(
        _value_base(session, section.value_model), session.compute, scores=1,
        trust_remote_code=session.config.model.trust_remote_code,
    )  # fmt: skip
    learning = sum(parameter.numel() for parameter in shape.parameters())
    return Beside(held + 16 * learning, kept=probe_of(shape, session.compute).kept)


def _value_base(session: Session, name: str) -> Path:
    config = session.config.model
    with session.mesh.main_first():
        return locate_model(
            name, hub=config.hub, dtype="float32", say=session.log, code=config.trust_remote_code
        )


def critic_of(session: Session, section: PpoSection, tuned: Tuned, layout: Layout) -> nn.Module:
    """The critic of a run.

    Raises:
        ConfigError: the value model reads other tokens, or reads them in another way.
    """
    device = session.mesh.device
    if section.value_model is None:
        return ValueHead(text_config(tuned.model).hidden_size, device)
    model = load_model(
        _value_base(session, section.value_model), torch.float32, device=device,
        trust_remote_code=session.config.model.trust_remote_code, scores=1,
    )  # fmt: skip
    if vocabulary(model) != vocabulary(tuned.model):
        raise ConfigError(
            f"--value_model: its vocabulary has {vocabulary(model)} tokens, the model's "
            f"{vocabulary(tuned.model)}; a critic reads the same tokens"
        )
    if choose_layout(model, layout.attention) != layout:
        raise ConfigError(
            f"--value_model: {type(model).__name__} cannot read samples as the model does "
            f"({layout.attention}); use a critic of the same architecture, or leave it out"
        )
    check_branches(model, tuned.model, layout, "--value_model")
    return ValueModel(model)
