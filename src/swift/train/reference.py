"""What a model is compared with: another model, itself without its adapter, or what either said
before the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeGuard

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from swift.config.alignment import ReferredSection
from swift.config.learned import LearnedSection
from swift.data.batch import Batch
from swift.errors import ConfigError
from swift.hub.locate import find_adapter
from swift.models.anatomy import vocabulary
from swift.models.attention import Layout, check_branches
from swift.models.heads import Head, find_head
from swift.train.frozen import frozen_base, frozen_bytes, frozen_model
from swift.train.objective import read_logps
from swift.train.session import Session
from swift.tune.lora import adapter_bytes
from swift.tune.tuned import Tuned

Ask = Callable[[Batch], torch.Tensor]
"""A batch -> the log-probability of every learned token, float32 (N,), without gradient."""

Read = Callable[[PreTrainedModel, Head, Batch], torch.Tensor]
"""How a model is asked: as an :data:`Ask`, with its head."""

_ADAPTER = "reference"


def plain_logps(model: PreTrainedModel, head: Head, batch: Batch) -> torch.Tensor:
    """Log-probabilities as the model itself gives them."""
    return read_logps(model, head, batch).logps_N


class Reference:
    """What a model is compared with: asked for every batch, but those that bring the answer."""

    def __init__(self, ask: Ask | None) -> None:
        self._ask = ask

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The log-probability of every learned token, float32 (N,), without gradient."""
        if batch.reference_N is not None:
            return batch.reference_N
        if self._ask is None:
            return torch.zeros_like(batch.weights_N)
        return self._ask(batch)

    def forget(self) -> None:
        """Let go of the model: from now on every batch brings the answer."""
        self._ask = None


NO_REFERENCE = Reference(None)
"""One that finds every answer equally likely."""


def reference_of(
    session: Session,
    section: LearnedSection,
    tuned: Tuned,
    layout: Layout,
    read: Read = plain_logps,
) -> Reference:
    """The reference of a run, asked by ``read``.

    Raises:
        ConfigError: it does not fit the model.
    """
    if not _refers(section):
        return NO_REFERENCE
    if section.ref_model is None and tuned.peft is not None:
        return Reference(_beside_adapter(session, section, tuned.peft, tuned.model, read))
    model = _second_model(session, section, layout)
    if vocabulary(model) != vocabulary(tuned.model):
        raise ConfigError(
            f"--ref_model: its vocabulary has {vocabulary(model)} tokens, the model's "
            f"{vocabulary(tuned.model)}; a reference reads the same tokens"
        )
    check_branches(model, tuned.model, layout, "--ref_model")
    return Reference(_asked(model, find_head(model), read))


def _refers(section: LearnedSection) -> TypeGuard[ReferredSection]:
    """Whether there is a reference."""
    return isinstance(section, ReferredSection) and not getattr(section, "reference_free", False)


def reference_bytes(session: Session, section: LearnedSection) -> int:
    """Bytes that the reference takes beside the model that learns."""
    if not _refers(section):
        return 0
    if section.ref_model is None and session.config.tuner.kind != "full":
        return sum(adapter_bytes(find_adapter(name)) for name in _beside(session, section)[:1])
    return frozen_bytes(session, reference_base(session, section))


def _asked(model: PreTrainedModel, head: Head, read: Read = plain_logps) -> Ask:
    def ask(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return read(model, head, batch)

    return ask


def _beside_adapter(
    session: Session, section: ReferredSection, peft: PeftModel, model: PreTrainedModel, read: Read
) -> Ask:
    """The model without the adapter that learns, or with that of the reference in its place."""
    adapters = _beside(session, section)
    if len(adapters) > 1:
        raise ConfigError("--ref_adapters: one adapter at a time; merge the others first")
    if adapters:
        peft.load_adapter(str(find_adapter(adapters[0])), _ADAPTER, is_trainable=False)
    other = _ADAPTER if adapters else None
    return without_adapter(peft, model, find_head(model), other, read)


def _beside(session: Session, section: ReferredSection) -> list[str]:
    """Adapters that the reference has and the model that learns has not."""
    model = session.config.model
    return section.ref_adapters or ([] if model.merge else model.adapters)


def without_adapter(
    peft: PeftModel,
    model: PreTrainedModel,
    head: Head,
    other: str | None = None,
    read: Read = plain_logps,
) -> Ask:
    """A model without the adapter that learns, or with another one in its place."""
    ask = _asked(model, head, read)

    def ask_reference(batch: Batch) -> torch.Tensor:
        training = model.training
        model.eval()  # a reference has no dropout
        try:
            with _adapter(peft, other) if other else peft.disable_adapter():
                return ask(batch)
        finally:
            model.train(training)

    return ask_reference


@contextlib.contextmanager
def _adapter(peft: PeftModel, name: str) -> Iterator[None]:
    """Another adapter for a while; which weights learn stays as it is."""
    learning = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    before = str(peft.active_adapter)
    peft.set_adapter(name)
    try:
        yield
    finally:
        peft.set_adapter(before)
        for parameter in peft.parameters():
            parameter.requires_grad_(False)
        for parameter in learning:
            parameter.requires_grad_(True)


def reference_base(session: Session, section: ReferredSection) -> Path:
    """The folder of the reference, without its adapter."""
    return session.base if section.ref_model is None else frozen_base(session, section.ref_model)


def _second_model(session: Session, section: ReferredSection, layout: Layout) -> PreTrainedModel:
    own = [] if section.ref_model else session.config.model.adapters
    adapters = section.ref_adapters or own
    return frozen_model(session, reference_base(session, section), adapters, layout, "--ref_model")
