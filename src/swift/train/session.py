"""What a run is before anything is loaded: configuration, processes, steps, memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from swift import registry
from swift.chat.load import renderer_for
from swift.chat.render import Renderer
from swift.config.runs import TrainingConfig
from swift.data.prepare import Prepared
from swift.data.source import check_inputs
from swift.data.stream import Order
from swift.hub.locate import locate_model
from swift.models.kernels import keep_freed_memory
from swift.models.load import dtype_name, resolve_dtype
from swift.observe.log import Log, quiet_libraries
from swift.observe.metrics import check_report
from swift.parallel.mesh import Mesh, open_mesh
from swift.parallel.world import World
from swift.train.memory import ALONE, Beside
from swift.train.plan import (
    Budget,
    Shape,
    budget_of,
    eval_order_of,
    learning_rate_of,
    max_length_of,
    order_of,
    shape_of,
    steps_of,
)
from swift.train.stop import StopRequest


@dataclass(frozen=True)
class Session:
    """What every part of a run needs to know."""

    config: TrainingConfig
    mesh: Mesh
    log: Log
    base: Path  # local folder of the base model
    compute: torch.dtype  # number format of the computation
    renderer: Renderer
    stopping: Callable[[], bool]  # somebody asked this process to end


@contextlib.contextmanager
def training_session(config: TrainingConfig, world: World) -> Iterator[Session]:
    """What a run that learns begins with: other processes joined, signals heard, files fetched."""
    quiet_libraries()
    check_report(config.report)
    log = Log(world.is_main)
    with open_mesh(world, config.parallel) as mesh, StopRequest() as stopping:
        yield open_session(config, mesh, log, stopping)


def open_session(
    config: TrainingConfig, mesh: Mesh, log: Log, stopping: Callable[[], bool] = lambda: False
) -> Session:
    """Fetch the model's files and settle the number format."""
    data = {"--dataset": config.data.train, "--val_dataset": config.data.val}
    check_inputs([config.model.path], config.model.adapters, data)
    compute = resolve_dtype(config.model.dtype, mesh.device)
    with mesh.main_first():
        base = locate_model(
            config.model.path,
            revision=config.model.revision,
            hub=config.model.hub,
            dtype=dtype_name(compute),
            code=config.model.trust_remote_code,
            say=log,
        )
    torch.use_deterministic_algorithms(config.train.deterministic)
    if mesh.device.type == "cpu":
        keep_freed_memory()
    renderer = renderer_for(base, config.model)
    return Session(config, mesh, log, base, compute, renderer, stopping)


@dataclass(frozen=True)
class Plan:
    """How a run is cut into steps, and what it takes."""

    order: Order
    eval_order: Order
    steps: int
    learning_rate: float
    max_length: int
    shape: Shape
    budget: Budget

    def rate(self, config: TrainingConfig, step: int) -> float:
        """The learning rate of a step (counted from 0)."""
        share = registry.build(config.schedule, step, self.steps)
        return self.learning_rate * float(share)


def make_plan(session: Session, data: Prepared, beside: Beside = ALONE) -> Plan:
    """Cut the data into steps and estimate the memory, from the shapes of the models alone.

    Args:
        session: of the run.
        data: what is learned from.
        beside: models beside the one that learns.
    """
    config, processes = session.config, session.mesh.world.size
    max_length = max_length_of(config, session.base)
    order = order_of(config, data.train, max_length, processes)
    shape = shape_of(config, session.base, session.compute)
    lengths = data.train.lengths_S
    device, compute = session.mesh.device, session.compute
    return Plan(
        order,
        eval_order_of(config, data.val, processes),
        steps_of(config, order),
        learning_rate_of(config),
        max_length,
        shape,
        budget_of(config, shape, order, lengths, max_length, compute, device, beside),
    )
