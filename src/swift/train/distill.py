"""The objective of distillation: a student's model and the divergence from its teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.chat.load import load_tokenizer
from swift.config.distill import GkdSection
from swift.config.runs import RlhfConfig
from swift.data.batch import Batch
from swift.data.stream import PLAIN
from swift.errors import ConfigError
from swift.losses.cross_entropy import cross_entropy
from swift.losses.distill import Theirs, distillation
from swift.losses.loss import Loss
from swift.models.anatomy import vocabulary
from swift.models.attention import Layout, run_body
from swift.models.heads import find_head
from swift.train.frozen import frozen_base, frozen_bytes, frozen_model
from swift.train.objective import media_zero
from swift.train.session import Session
from swift.tune.tuned import Tuned


@dataclass(frozen=True)
class TaughtBatch(Batch):
    """A micro-batch that says more of its answers. Axis K: tokens that a server told of."""

    own: bool = False  # the student wrote them
    told_NK: torch.Tensor | None = None  # float32: log-probabilities
    ids_NK: torch.Tensor | None = None  # int64: of these tokens


class Teacher:
    """A model in this process that a student learns from."""

    def __init__(self, model: PreTrainedModel, device: torch.device, *, offload: bool) -> None:
        """Take a frozen model.

        Args:
            model: on ``device``.
            device: where it computes.
            offload: keep it in the memory of the CPU in between.
        """
        self.model, self._device, self._offload = model, device, offload
        self.head = find_head(model)
        self._away()

    @contextlib.contextmanager
    def present(self) -> Iterator[None]:
        """The teacher where it can be asked."""
        if self._offload:
            self.model.to(self._device)  # type: ignore[arg-type]
        try:
            yield
        finally:
            self._away()

    def _away(self) -> None:
        if self._offload:
            self.model.to("cpu")  # type: ignore[arg-type]

    def believes(self, batch: Batch, common: int, top: int | None) -> Theirs:
        """What it believes of the learned positions of a batch, while it is present.

        Args:
            batch: what is read.
            common: tokens that student and teacher share.
            top: of these the most likely ones alone.
        """
        with torch.no_grad():
            hidden_ND = run_body(self.model, batch).flatten(0, 1)[batch.learned_N]

        def theirs(part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
            with torch.no_grad():
                logits_NV = self.head(hidden_ND[part])[:, :common]
                return (logits_NV, None) if top is None else logits_NV.topk(min(top, common))

        return theirs


def told(batch: TaughtBatch) -> Theirs:
    """What a server told of a batch."""
    told_NK, ids_NK = batch.told_NK, batch.ids_NK
    assert told_NK is not None and ids_NK is not None
    return lambda part: (told_NK[part], ids_NK[part])


class DistillObjective(nn.Module):
    """The divergence of student and teacher over the learned tokens of a batch."""

    unit, collate = "tokens", PLAIN

    def __init__(
        self,
        section: GkdSection,
        temperature: float,
        model: PreTrainedModel,
        teacher: Teacher | None,
    ) -> None:
        """Take a student, and a teacher in this process; None: batches bring what it told."""
        super().__init__()
        self.model = model
        self._section, self._temperature, self.teacher = section, temperature, teacher
        self._head, self._zero = find_head(model), media_zero(model)
        sizes = [vocabulary(model)] + ([vocabulary(teacher.model)] if teacher else [])
        self._common = min(sizes)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics."""
        section, teacher = self._section, self.teacher
        hidden_ND = run_body(self.model, batch).flatten(0, 1)[batch.learned_N]
        with teacher.present() if teacher else contextlib.nullcontext():
            if teacher is not None:
                theirs = teacher.believes(batch, self._common, section.logits_topk)
            else:
                assert isinstance(batch, TaughtBatch)
                theirs = told(batch)
            loss = distillation(
                hidden_ND, batch.weights_N, self._shared, self._head.learning(), self._common,
                theirs, section.beta, self._temperature,
            )  # fmt: skip
        own = isinstance(batch, TaughtBatch) and batch.own
        total, sums = loss.total, dict(loss.sums)
        if section.sft_alpha and not own:
            size = vocabulary(self.model)
            written = cross_entropy(
                hidden_ND, batch.targets_N, batch.weights_N, self._head, self._head.learning(), size
            )
            sums |= {"divergence": total.detach(), "cross_entropy": written.total.detach()}
            total = total + section.sft_alpha * written.total
        one = total.new_ones(())
        sums["on_policy"], counts = one * float(own), {"on_policy": one}
        return Loss(total, sums, counts).out(batch.weight, also=self._zero())

    def _shared(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """The student's logits of the tokens that both have."""
        return self._head(hidden_ND)[:, : self._common]


def gkd(section: GkdSection, session: Session, tuned: Tuned, layout: Layout) -> DistillObjective:
    """The objective of a run, with its teacher.

    Raises:
        ConfigError: the teacher has other tokens, or cannot read what the student reads.
    """
    assert isinstance(session.config, RlhfConfig)
    temperature = session.config.rollout.temperature
    teacher = None
    if section.teacher_model is not None:
        base = frozen_base(session, section.teacher_model)
        code = session.config.model.trust_remote_code
        check_words(words_of(session.base, code), words_of(base, code))
        model = frozen_model(session, base, section.teacher_adapters, layout, "--teacher_model")
        teacher = Teacher(model, session.mesh.device, offload=section.offload_teacher_model)
    return DistillObjective(section, temperature, tuned.model, teacher)


def teacher_bytes(session: Session, section: GkdSection) -> int:
    """Bytes that the teacher takes beside the student; it is whole on the device while it is asked,
    also where it waits elsewhere.
    """
    if section.teacher_model is None:
        return 0
    return frozen_bytes(session, frozen_base(session, section.teacher_model))


def words_of(folder: Path, code: bool) -> dict[str, int]:
    """The tokens of a checkpoint."""
    found: dict[str, int] = load_tokenizer(folder, trust_remote_code=code).get_vocab()
    return found


def check_words(ours: dict[str, int], theirs: dict[str, int]) -> None:
    """Refuse a teacher that has other tokens. How far a vocabulary is padded may differ.

    Raises:
        ConfigError: with the first token that differs.
    """
    if ours == theirs:
        return
    foreign = {**theirs, **ours}.items() - (ours.items() & theirs.items())
    word = min(foreign, key=lambda pair: pair[1])[0]
    raise ConfigError(
        f"--teacher_model: it has other tokens ({len(theirs)}, the model {len(ours)}): {word!r} is "
        f"{ours.get(word, 'no token')} of the model and {theirs.get(word, 'no token')} of the "
        "teacher. What is distilled is the probability of tokens; use a teacher with the same "
        "tokenizer, or learn from its answers: swift sample, then swift sft"
    )
