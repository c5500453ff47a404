"""Model and policy loss as one module, and the micro-batches that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.policy import PolicySection
from swift.config.ppo import PpoSection
from swift.data.batch import Batch
from swift.data.stream import Collate
from swift.losses.drawn import Believed, Draw, believed
from swift.losses.loss import Loss
from swift.losses.policy import Acted, policy_loss
from swift.losses.value import value_loss
from swift.models.anatomy import vocabulary
from swift.models.attention import run_body
from swift.models.heads import Head, find_head
from swift.rl.chord import Mixed, expert_loss
from swift.train.reference import NO_REFERENCE, Reference


@dataclass(frozen=True)
class PolicyBatch(Batch):
    """A micro-batch of answers. Columns are of the learned tokens, in the batch's order."""

    advantage_N: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    engine_N: torch.Tensor | None = None  # log-probabilities of the engine's model
    engine_drawn_N: torch.Tensor | None = None  # the same of what it drew from
    old_N: torch.Tensor | None = None  # of the policy before the first step, as drawn from
    plain_N: torch.Tensor | None = None  # the same as the engine would report them
    reference_drawn_N: torch.Tensor | None = None
    keep_N: torch.Tensor | None = None
    value_N: torch.Tensor | None = None  # of the critic, before the first step
    return_N: torch.Tensor | None = None  # what it should have said
    mixed: Mixed | None = None  # what experts said
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of the generation

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PolicyBatch:
        moved = super()._each(change)
        assert isinstance(moved, PolicyBatch)
        if moved.mixed is None or moved.mixed.batch is None:
            return moved
        batch = moved.mixed.batch._each(change)
        return replace(moved, mixed=replace(moved.mixed, batch=batch))


def policy_batch(plain: Batch, weight: float, **columns: Any) -> PolicyBatch:
    """A batch with what is known of its tokens.

    Args:
        plain: tokens; its weights are those of single tokens.
        weight: what it counts for.
        columns: the further fields; sequences of numbers become tensors.
    """
    own = {f.name: getattr(plain, f.name) for f in fields(Batch)}
    made = {
        name: torch.from_numpy(np.asarray(values, np.float32)) if name.endswith("_N") else values
        for name, values in columns.items()
        if values is not None
    }
    return PolicyBatch(**{**own, "weight": weight, **made})


class PolicyObjective(nn.Module):
    """The policy loss of answers, with what the trainer and the engine think of each other, and
    that of the critic where there is one.
    """

    unit, collate = "answers", Collate(share=True)

    def __init__(
        self,
        section: PolicySection,
        draw: Draw,
        model: PreTrainedModel,
        reference: Reference = NO_REFERENCE,
        critic: nn.Module | None = None,
        *,
        phi: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.critic = critic
        self.reference = reference
        self._section, self._draw, self._head = section, draw, find_head(model)
        self._phi = phi

    def forward(self, batch: PolicyBatch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        seen, value_N = self.read(batch)
        plain_N = seen.plain if batch.plain_N is None else batch.plain_N
        drawn_N = seen.drawn.detach() if batch.old_N is None else batch.old_N
        engine_N = None
        sums: dict[str, torch.Tensor] = {"entropy": seen.entropy.sum()}
        if batch.engine_N is not None:
            difference_N = plain_N - batch.engine_N
            # without its draw, what differs in the model is taken to differ in the draw as well
            engine_N = drawn_N - difference_N
            sums["mismatch"] = difference_N.abs().sum()
            sums["mismatch_kl"] = (difference_N.exp() - difference_N - 1).sum()
        if batch.engine_drawn_N is not None:
            engine_N = batch.engine_drawn_N
        acted = Acted(
            batch.sequence_N, len(batch.ends_Q), batch.weights_N, batch.advantage_N,
            batch.old_N, engine_N, batch.reference_drawn_N, batch.keep_N,
        )  # fmt: skip
        loss = policy_loss(seen.drawn, acted, self._section)
        count = seen.drawn.new_tensor(float(len(seen.drawn)))
        sums = {**sums, **loss.sums}
        whole = loss.total
        if value_N is not None:
            worth, found = self._worth(value_N, batch)
            whole, sums = whole + worth, {**sums, **found}
        metrics = dict(batch.metrics)
        if batch.mixed is not None:
            whole, more = self._mixed(whole, batch.mixed)
            metrics |= more
        out = Loss(whole, sums, dict.fromkeys(sums, count)).out(batch.weight)
        for name, pair in metrics.items():
            out[name] = loss.total.new_tensor(pair)
        return out

    def read(self, batch: Batch) -> tuple[Believed, torch.Tensor | None]:
        """What the policy thinks of the learned tokens of a batch, and the critic if there is one:
        values (N,).
        """
        hidden_ND = run_body(self.model, batch).flatten(0, 1)[batch.learned_N]
        seen = _believed(self.model, self._head, batch, self._draw, hidden_ND)
        return seen, None if self.critic is None else self.critic(batch, hidden_ND)

    def _worth(
        self, value_N: torch.Tensor, batch: PolicyBatch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The critic's part of the loss; tokens count for it as they do for the policy."""
        assert isinstance(self._section, PpoSection)
        assert batch.value_N is not None and batch.return_N is not None
        most = self._section.cliprange_value
        loss_N, clipped_N = value_loss(value_N, batch.value_N, batch.return_N, most)
        sums = {"value_loss": loss_N, "value_clip": clipped_N, "value": value_N}
        total = self._section.vf_coef * (loss_N * batch.weights_N).sum()
        return total, {name: column_N.detach().sum() for name, column_N in sums.items()}

    def _mixed(
        self, policy: torch.Tensor, mixed: Mixed
    ) -> tuple[torch.Tensor, dict[str, tuple[float, float]]]:
        """The loss with the part of the experts, and the metrics of that."""
        whole, known = policy * (1 - mixed.mu), (0.0, 0.0)
        if mixed.batch is not None:
            lost = expert_loss(self.model, self._head, mixed.batch, phi=self._phi)
            whole, known = whole + mixed.share * lost, (float(lost.detach()), mixed.batch.weight)
        return whole, {"mu": (mixed.mu, 1.0), "expert_loss": known}


def read_drawn(model: PreTrainedModel, head: Head, batch: Batch, draw: Draw) -> Believed:
    """What a model thinks of the learned tokens of a batch."""
    hidden_ND = run_body(model, batch).flatten(0, 1)[batch.learned_N]
    return _believed(model, head, batch, draw, hidden_ND)


def _believed(
    model: PreTrainedModel, head: Head, batch: Batch, draw: Draw, hidden_ND: torch.Tensor
) -> Believed:
    learning, size = head.learning(), vocabulary(model)
    return believed(hidden_ND, batch.targets_N, head, learning, size, draw)


def joined(parts: Sequence[Sequence[float] | None]) -> np.ndarray[Any, Any] | None:
    """Columns of several answers as one; None where one of them has none."""
    if any(part is None for part in parts):
        return None
    found = [np.asarray(part, np.float32) for part in parts]
    return np.concatenate(found) if found else np.zeros(0, np.float32)
