"""CHORD: fine-tuning on conversations of experts beside the policy's own answers.

arXiv:2508.11408. In every step (1 - mu) L_policy + mu L_sft, both as means over the whole step, so
that the sum does not depend on how the step is cut. The rows of a step follow from its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from swift.config.chord import ChordSection
from swift.data.batch import Batch
from swift.data.ledger import Ledger
from swift.data.prepare import Workshop
from swift.data.sample import Samples
from swift.data.source import open_sources, read
from swift.data.stream import Collate, Order
from swift.errors import DataError
from swift.hub.locate import cache_dir, locate_dataset
from swift.models.heads import Head
from swift.train.objective import read_logps
from swift.train.plan import max_length_of
from swift.train.session import Session

_FLAG = "--chord_sft_dataset"


@dataclass(frozen=True)
class Mixed:
    """What experts said, for one micro-batch."""

    batch: Batch | None  # None: this process has none in this micro-batch
    mu: float
    share: float  # mu times the weight of the step's answers over that of its experts' tokens


@dataclass(frozen=True)
class Experts:
    """The conversations of a run, in the order of its steps."""

    section: ChordSection
    samples: Samples
    order: Order
    collate: Collate

    def of_step(self, step: int, process: int, weight: float) -> list[Mixed]:
        """What goes with each micro-batch of a step on a process.

        Args:
            step: counted from 0.
            process: its rank.
            weight: what all answers of the step count for, over all processes.
        """
        mu, order = mu_at(step, self.section), self.order
        if mu == 0:
            return [Mixed(None, 0.0, 0.0)] * order.accumulation
        parts = [order.micro_batches(step, rank) for rank in range(order.processes)]
        chosen = [i for part in parts for indices in part for i in indices]
        whole = math.fsum(float(self.samples[i].weights.sum()) for i in chosen)
        share = mu * weight / whole
        found = [
            Mixed(self.collate([self.samples[i] for i in indices]) if indices else None, mu, share)
            for indices in parts[process]
        ]
        return found + [Mixed(None, mu, share)] * (order.accumulation - len(found))


def mu_at(step: int, section: ChordSection) -> float:
    """The share of fine-tuning in a step (counted from 0)."""
    peak, valley = section.mu_peak or 0.0, section.mu_valley or 0.0
    rise, fall = section.mu_warmup_steps or 0, section.mu_decay_steps or 0
    if step < rise:
        return peak * step / rise
    if step >= rise + fall:
        return valley
    return valley + (peak - valley) * (1 + math.cos(math.pi * (step - rise) / fall)) / 2


def expert_loss(model: PreTrainedModel, head: Head, batch: Batch, *, phi: bool) -> torch.Tensor:
    """The summed loss of fine-tuning; with ``phi`` every token times p (1 - p)."""
    logps_N = read_logps(model, head, batch).logps_N
    weights_N = batch.weights_N
    if phi:
        likely_N = logps_N.detach().exp()
        weights_N = weights_N * likely_N * (1 - likely_N)
    return -(logps_N * weights_N).sum()


def read_experts(
    session: Session, section: ChordSection, order: Order, collate: Collate
) -> Experts | None:
    """The conversations of a run, dealt out as its answers are; None where none are learned.

    Raises:
        DataError: no row can be used.
    """
    if not section.dataset:
        return None
    config, ledger = session.config, Ledger()
    workshop = Workshop(
        section=config.data,
        spec=session.renderer.spec,
        kind="chat",
        max_length=max_length_of(config, session.base),
        cache=cache_dir() / "tokens",
        locate=partial(locate_dataset, hub=config.model.hub, say=session.log),
        plugins=tuple(config.external_plugins),
    )
    with session.mesh.main_first():
        sources = open_sources(section.dataset, workshop.locate, flag=_FLAG)
        for source in sources:
            ledger.account(source.name)
        rows = workshop.encoded(read(sources, config.data.seed))
        samples = workshop.collected(rows, ledger)
    for line in ledger.losses():
        session.log(line)
    if not len(samples):
        raise DataError(f"{_FLAG}: no row is a conversation that can be used")
    dealt = Order(
        [[i] for i in range(len(samples))], section.batch_size, order.accumulation,
        order.processes, config.data.shuffle, config.data.seed,
    )  # fmt: skip
    session.log(f"CHORD: {len(samples):,} conversations, {dealt.groups_per_step} in a step")
    return Experts(section, samples, dealt, collate)
