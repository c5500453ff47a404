"""What a run is before anything is loaded: configuration, processes, steps, memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from swift import registry
from swift.config.runs import TrainingConfig
from swift.data.prepare import Prepared
from swift.data.source import check_inputs
from swift.data.stream import Order
from swift.hub.locate import locate_model
from swift.models.kernels import keep_freed_memory
from swift.models.load import dtype_name, resolve_dtype
from swift.observe.log import Log
from swift.parallel.mesh import Mesh
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


@dataclass(frozen=True)
class Session:
    """What every part of a run needs to know."""

    config: TrainingConfig
    mesh: Mesh
    log: Log
    base: Path  # local folder of the base model
    compute: torch.dtype  # number format of the computation


def open_session(config: TrainingConfig, mesh: Mesh, log: Log) -> Session:
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
    return Session(config, mesh, log, base, compute)


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


def make_plan(session: Session, data: Prepared) -> Plan:
    """Cut the data into steps and estimate the memory, from the model's shape alone."""
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
        budget_of(config, shape, order, lengths, max_length, compute, device),
    )
