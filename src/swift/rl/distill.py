"""The parts of a distillation, put together as its recipe asks for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from swift.config.distill import GkdSection
from swift.data import flow
from swift.data.batch import Batch
from swift.data.prepare import Prepared
from swift.data.stream import steps
from swift.infer.engine import Engine
from swift.models.anatomy import vocabulary
from swift.rl.engines import computing, live_engine
from swift.rl.lessons import AsRows, Lessons, Writer
from swift.rl.setup import rl_config
from swift.rl.tutor import Tutor
from swift.train.distill import DistillObjective, Teacher
from swift.train.learner import Learner
from swift.train.loop import Job
from swift.train.session import Plan, Session


def announce(session: Session) -> None:
    """Say who teaches, and with which answers."""
    section = rl_config(session).rlhf
    assert isinstance(section, GkdSection)
    others = "the teacher's" if section.seq_kd else "those of the rows"
    session.log(
        f"teacher: {section.teacher_model or section.teacher_model_server}; answers of the student "
        f"in {section.lmbda:.0%} of the steps, {others} in the others"
    )


def make_lessons(
    session: Session,
    learner: Learner,
    folder: Path,
    engine: Engine | None = None,
) -> Lessons:
    """What the student is taught with; it writes with the live weights unless another engine is
    given.
    """
    config, module = rl_config(session), learner.spread.module
    section = config.rlhf
    assert isinstance(section, GkdSection) and isinstance(module, DistillObjective)
    model, teacher = learner.tuned.model, module.teacher
    sizes = {vocabulary(model)} | ({vocabulary(teacher.model)} if teacher else set())
    student = writing = None
    if section.lmbda:
        within = partial(computing, session, model)
        engine = engine or live_engine(session, model, within)
        student = Writer(engine, "student", _beyond(min(sizes), model))
    if teacher is not None and section.seq_kd:
        asked = live_engine(session, teacher.model, partial(_teaching, session, teacher))
        writing = Writer(asked, "teacher", _beyond(min(sizes), teacher.model))
    tutor = None
    if section.teacher_model_server is not None:
        assert section.logits_topk is not None
        tutor = Tutor(
            section.teacher_model_server, section.logits_topk, vocabulary(model),
            section.teacher_model_server_key,
        )  # fmt: skip
    rank = session.mesh.world.rank
    record = folder / ("completions.jsonl" if not rank else f"completions-{rank}.jsonl")
    collate = replace(learner.collate, share=False)
    return Lessons(
        section=section,
        drawn=config.rollout,
        stops=tuple(sorted(session.renderer.stop_ids)),
        student=student,
        teacher=writing,
        tutor=tutor,
        lay=collate,
        decode=session.renderer.tokenizer.decode,
        seed=config.train.seed,
        record=record if config.rollout.log_completions else None,
    )


def _beyond(common: int, model: PreTrainedModel) -> dict[int, float]:
    """What a vocabulary is padded with beyond another's, forbidden: the other could not read it."""
    return dict.fromkeys(range(common, vocabulary(model)), -math.inf)


@contextlib.contextmanager
def _teaching(session: Session, teacher: Teacher) -> Iterator[None]:
    """The teacher, as it computes while others learn from it."""
    with teacher.present(), computing(session, teacher.model):
        yield


def with_lessons(job: Job, lessons: Lessons, session: Session, plan: Plan, data: Prepared) -> Job:
    """A run whose micro-batches are lessons."""
    rank, workers = session.mesh.world.rank, session.config.data.workers

    def windows(first: int, last: int) -> Iterator[list[Batch]]:
        if data.flow:
            passing = flow.steps(
                data.flow, plan.order, count=last - first, process=rank, collate=AsRows()
            )
            return lessons.windows(passing, first)  # type: ignore[arg-type]
        lying = steps(
            data.train, plan.order, first=first, last=last, process=rank,
            collate=AsRows(), workers=workers,
        )  # fmt: skip
        return lessons.windows(lying, first)  # type: ignore[arg-type]

    def evaluation() -> Iterator[list[Batch]]:
        order = plan.eval_order
        lying = steps(
            data.val, order, first=0, last=order.steps_per_epoch, process=rank, collate=AsRows()
        )
        return lessons.evaluation(lying)  # type: ignore[arg-type]

    return replace(job, windows=windows, evaluation=evaluation if job.evaluation else None)
