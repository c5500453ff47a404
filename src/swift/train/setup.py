"""The parts of a training run, put together in the order in which a recipe asks for them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from swift.chat.load import template_of
from swift.chat.manifest import text_of
from swift.config.runs import TrainingConfig
from swift.data import flow
from swift.data.batch import Batch
from swift.data.encode import renderer_of
from swift.data.ledger import Ledger
from swift.data.prepare import Prepared, Workshop, prepare
from swift.data.stream import Order, steps
from swift.errors import ResourceError
from swift.hub.locate import cache_dir, locate_dataset
from swift.models.load import dtype_name, is_out_of_memory
from swift.observe.metrics import Recorder
from swift.observe.plot import plot_loss
from swift.observe.progress import Progress
from swift.train.checkpoint import Keeper
from swift.train.folder import dump_config, open_run
from swift.train.learner import Learner
from swift.train.loop import Job
from swift.train.memory import GIB
from swift.train.outcome import Outcome, outcome
from swift.train.plan import capacity_of, max_length_of
from swift.train.session import Plan, Session
from swift.train.state import TrainState


def prepare_data(session: Session, kind: str) -> Prepared:
    """Turn rows into samples; the first process of a machine does the work for all."""
    config, log = session.config, session.log
    main = session.mesh.world.local_rank == 0
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        before, done = done // 50_000, done + rows
        if done // 50_000 > before:
            log(f"  {done:,} rows read")

    workshop = Workshop(
        section=config.data if main else config.data.model_copy(update={"cache": True}),
        spec=session.renderer.spec,
        kind=kind,
        max_length=max_length_of(config, session.base),
        cache=cache_dir() / "tokens",
        locate=partial(locate_dataset, hub=config.model.hub, say=log),
        plugins=tuple(config.external_plugins),
        progress=progress,
    )
    with session.mesh.main_first():
        data = prepare(workshop, config.data.train)
    for line in data.ledger.losses():
        log(line)
    return data


def announce(session: Session, plan: Plan, data: Prepared, folder: Path) -> None:
    """Say what is about to happen, in four lines."""
    config, shape, order = session.config, plan.shape, plan.order
    tokens, learned = int(data.train.lengths_S.sum()), int(data.train.learned_S.sum())
    unit = "packs" if config.data.packing else "samples"
    session.log(
        f"{config.model.path}: {shape.parameters / 1e6:,.1f}M parameters, "
        f"{shape.learning / 1e6:,.2f}M learn ({config.tuner.kind}); "
        f"{dtype_name(session.compute)} on {session.mesh.device.type}"
    )
    session.log(
        f"{'a stream that begins with ' if data.flow else ''}{len(data.train):,} samples, "
        f"{tokens:,} tokens, {learned / tokens:.0%} of them learned; "
        f"{plan.steps:,} steps of {order.groups_per_step} {unit}"
        + ("" if data.flow else f", {order.steps_per_epoch:,} an epoch")
    )
    if order.mix:
        session.log(f"by modality: {order.mix}")
    if learning := shape.learning_parts():
        session.log(f"learning: {learning}")
    announce_memory(session, plan)
    session.log(f"run: {folder}")


def announce_memory(session: Session, plan: Plan) -> None:
    """Say what the run takes, and what would help where that is too much."""
    budget = plan.budget
    again = ", activations computed again" if budget.again else ""
    session.log(
        f"memory: about {budget.estimate.total / GIB:.1f} GiB a process{again}; "
        f"{budget.free / GIB:.1f} GiB are free"
    )
    if not budget.fits:
        session.log.warn(f"this may not fit. What would help:\n{budget.advice()}")


def make_keeper(
    session: Session, folder: Path, learner: Learner, plan: Plan, data: Prepared
) -> Keeper:
    """What writes checkpoints, with all that decides the order of samples."""
    config = session.config
    return Keeper(
        folder=folder,
        base=session.base,
        tuned=learner.tuned,
        module=learner.spread.module,
        optimizer=learner.optimizer,
        mesh=session.mesh,
        compute=session.compute,
        config=dump_config(config),
        template=template_of(config.model.chat_template),
        serving=text_of(renderer_of(data.spec), config.data.system),
        order=order_record(config, plan.order, data, plan.max_length),
        flow=data.flow,
        keep=config.train.keep,
        only_model=config.train.save_only_model,
    )


def order_record(
    config: TrainingConfig, order: Order, data: Prepared, max_length: int
) -> dict[str, Any]:
    """All that decides which samples are in which step, for comparison with another run."""
    return {
        "samples": (data.flow or data.train).fingerprint,
        "samples in a step": order.groups_per_step,
        "packing": config.data.packing and capacity_of(config, max_length),
        "packing_window": config.data.packing_window,
        "group_by_length": config.data.group_by_length,
        "modality_shares": config.data.modality_shares,
        "shuffle": order.shuffle,
        "data seed": order.seed,
        "drop_last": order.drop_last,
    }


def start(
    session: Session, folder: Path, checkpoint: Path | None, keeper: Keeper, data: Prepared
) -> TrainState:
    """Where the run begins: at its start, or where a checkpoint left it."""
    if session.mesh.world.is_main:
        (folder / "config.yaml").write_text(keeper.config, encoding="utf-8")
        write_ledger(folder, data.ledger)
    if checkpoint is None:
        if session.config.train.resume:
            session.log("nothing to resume yet: the run begins anew")
        return TrainState()
    session.log(f"going on from {checkpoint}")
    return keeper.restore(checkpoint)


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Put what became of every row beside a run."""
    text = json.dumps(ledger.as_dict(), indent=2, ensure_ascii=False)
    (folder / "ledger.json").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def recording(
    session: Session, folder: Path, state: TrainState, plan: Plan
) -> Iterator[tuple[Recorder | None, Progress]]:
    """Open the terminal's progress and the sinks; close them and draw the curve in any case."""
    config, main = session.config, session.mesh.world.is_main
    progress = Progress(plan.steps, speaking=main)
    recorder = None
    if main:
        name = config.run_name or str(folder)
        values = config.model_dump(mode="json")
        recorder = Recorder(folder, name, values, config.report, session.log, progress, state.step)
    try:
        yield recorder, progress
    finally:
        if recorder:
            recorder.close()
            plot_loss(folder / "metrics.jsonl", folder / "loss.png")
        progress.close()


def make_job(
    session: Session,
    learner: Learner,
    keeper: Keeper,
    plan: Plan,
    data: Prepared,
    outlets: tuple[Recorder | None, Progress],
) -> Job:
    """Everything that the loop needs."""
    config, mesh = session.config, session.mesh
    rank, pin, collate = mesh.world.rank, mesh.device.type == "cuda", learner.collate

    def windows(first: int, last: int) -> Iterator[list[Batch]]:
        if data.flow:
            return flow.steps(
                data.flow, plan.order, count=last - first, process=rank,
                collate=collate, pin=pin,
            )  # fmt: skip
        return steps(
            data.train, plan.order, first=first, last=last, process=rank,
            collate=collate, workers=config.data.workers, pin=pin,
        )  # fmt: skip

    def evaluation() -> Iterator[list[Batch]]:
        order = plan.eval_order
        return steps(
            data.val, order, first=0, last=order.steps_per_epoch, process=rank,
            collate=collate,
        )  # fmt: skip

    return Job(
        spread=learner.spread,
        parameters=learner.parameters,
        optimizer=learner.optimizer,
        rate=lambda step: plan.rate(config, step),
        windows=windows,
        steps=plan.steps,
        epoch=lambda step: (
            data.flow.place.epoch if data.flow else step / plan.order.steps_per_epoch
        ),
        steps_per_epoch=math.inf if data.flow else plan.order.steps_per_epoch,
        section=config.train,
        mesh=mesh,
        unit=learner.unit,
        compute=session.compute,
        evaluation=evaluation if len(data.val) else None,
        save=keeper.save,
        stopping=session.stopping,
        recorder=outlets[0],
        progress=outlets[1],
    )


@contextlib.contextmanager
def run_folder(session: Session, plan: Plan) -> Iterator[tuple[Path, Path | None]]:
    """The folder of a run, and the checkpoint that it goes on from. Where memory runs out within,
    that is said with the knobs that would help, and what each would save.
    """
    mesh = session.mesh
    try:
        yield mesh.share(open_run(session.config) if mesh.world.is_main else None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"out of memory. What would help:\n{plan.budget.advice()}") from None


@contextlib.contextmanager
def training(
    session: Session,
    plan: Plan,
    data: Prepared,
    learner: Learner,
    keeper: Keeper,
    checkpoint: Path | None,
) -> Iterator[tuple[Job, TrainState]]:
    """All that the loop needs, and where it begins; its records end with it. Then it is said what
    became of rows that passed by; of others it is known before the start.
    """
    state = start(session, keeper.folder, checkpoint, keeper, data)
    with recording(session, keeper.folder, state, plan) as outlets:
        yield make_job(session, learner, keeper, plan, data, outlets), state
    if data.flow and session.mesh.world.is_main:
        write_ledger(keeper.folder, data.flow.ledger)
        for line in data.flow.ledger.losses():
            session.log(line)


def finish(session: Session, folder: Path, state: TrainState, reason: str) -> Outcome:
    """Say where the result is."""
    result = outcome(folder, state, reason)
    if session.mesh.world.is_main:
        result.announce(session.log)
    return result
