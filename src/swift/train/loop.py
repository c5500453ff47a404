"""The training loop.

The only division in the whole flow happens here: gradients are those of the total loss of a step
over the weight of the whole step, over all its micro-batches and processes. So a step means the
same however it is cut: into packs, micro-batches, processes, or a last window that is not full.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swift.config.train import TrainSection
from swift.data.batch import Batch
from swift.errors import ConfigError, ResourceError
from swift.models.kernels import fast_linear
from swift.observe.metrics import Recorder
from swift.observe.progress import Progress
from swift.parallel.mesh import Mesh, Spread, whole
from swift.train.memory import peak_bytes
from swift.train.state import TrainState

Windows = Callable[[int, int], Iterator[list[Batch]]]
"""(first step, last step) -> the micro-batches of each step on this process."""


@dataclass(frozen=True)
class Job:
    """What a run is made of, once everything is loaded."""

    spread: Spread
    parameters: list[nn.Parameter]  # those that learn
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]  # learning rate of a step (counted from 0)
    windows: Windows
    steps: int  # of the whole run
    epoch: Callable[[int], float]  # passes over the data that a number of steps is
    steps_per_epoch: float  # infinite where nobody knows
    section: TrainSection
    mesh: Mesh
    unit: str  # what batches count: tokens, pairs ...
    compute: torch.dtype
    evaluation: Callable[[], Iterator[list[Batch]]] | None
    save: Callable[[TrainState], None]
    stopping: Callable[[], bool]  # somebody asked this process to end
    recorder: Recorder | None  # the first process's
    progress: Progress
    measure: Callable[[], dict[str, float]] | None = None  # evaluates in place of losses

    @property
    def evaluates(self) -> bool:
        """Whether anything is held out."""
        return self.evaluation is not None or self.measure is not None


def fit(job: Job, state: TrainState) -> str:
    """Train from where ``state`` stands to the end.

    Returns:
        Why it ended: ``done``, ``stopped`` (asked to) or ``early`` (no more progress).
    """
    clock = _Clock(state)
    saved = evaluated = -1
    reason = "done"
    job.spread.run.train()
    for window in job.windows(state.step, job.steps):
        stop = _step(job, state, window)
        last = state.step == job.steps
        if state.step == 1 or state.step % job.section.log_every == 0 or last:
            _report(job, state, clock)
        if job.evaluates and _due(job, state.step, job.section.evaluate, _eval_every(job.section)):
            evaluate(job, state)
            evaluated = state.step
            if job.section.patience and state.stale >= job.section.patience:
                reason = "early"
        if _due(job, state.step, job.section.save, job.section.save_every):
            job.save(state)
            saved = state.step
        if stop and not last:
            reason = "stopped"
        if reason != "done":
            break
    wanted = job.section.evaluate != "no" and reason == "done"
    if job.evaluates and wanted and evaluated != state.step:
        evaluate(job, state)
        saved = -1  # the last checkpoint may have become the best
    if saved != state.step:
        job.save(state)
    return reason


def _step(job: Job, state: TrainState, window: list[Batch]) -> bool:
    """One optimizer step. Returns whether any process was asked to stop."""
    rate = job.rate(state.step)
    local = float(sum(batch.weight for batch in window))
    positions = sum(batch.count for batch in window)
    weight, total_positions, stop = job.mesh.sum([local, positions, float(job.stopping())])
    sums: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(window):
        with job.spread.exchange(now=number == len(window) - 1), fast_linear(job.spread.module):
            out = run(job, batch)
            # gradients are averaged over the processes: times their number makes it a sum
            (out["total"] * (job.mesh.world.size / weight)).backward()
        _add(sums, out)
    norm = clip(job.parameters, job.section.max_grad_norm)
    if not math.isfinite(norm):
        raise ResourceError(_diverged(state.step + 1, norm, window))
    for group in job.optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)  # parts may learn slower or faster
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.positions += int(total_positions)
    state.learned += weight
    for name, pair in _over_all(job.mesh, sums, weight).items():
        before = state.sums.get(name, [0.0, 0.0])
        state.sums[name] = [a + b for a, b in zip(before, pair, strict=True)]
    state.sums["learning_rate"], state.sums["grad_norm"] = [rate, 1.0], [norm, 1.0]
    return stop > 0


def _over_all(
    mesh: Mesh, sums: dict[str, torch.Tensor], weight: float
) -> dict[str, tuple[float, float]]:
    """Loss and metrics over all processes: each a sum, and what divides it."""
    metrics = [name for name in sums if name != "total"]
    numbers = [value for name in metrics for value in sums[name].tolist()]
    total, *numbers = mesh.sum([float(sums["total"]), *numbers])
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return {"loss": (total, weight), **dict(zip(metrics, pairs, strict=True))}


def _add(
    sums: dict[str, torch.Tensor], out: dict[str, torch.Tensor], dtype: torch.dtype | None = None
) -> None:
    """Add what an objective gave to what it gave before."""
    for name, value in out.items():
        new = value.detach().to(dtype)
        sums[name] = sums[name] + new if name in sums else new


def run(job: Job, batch: Batch) -> dict[str, torch.Tensor]:
    """Loss and metrics of one micro-batch, as its objective gives them."""
    device = job.mesh.device
    mixed = job.compute != torch.float32 and not job.spread.sharded
    with torch.autocast(device.type, job.compute) if mixed else contextlib.nullcontext():
        out: dict[str, torch.Tensor] = job.spread.run(batch.to(device))
    return out


def clip(parameters: list[nn.Parameter], most: float) -> float:
    """Scale gradients down to a norm of ``most`` (0: leave them); returns the norm before."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    if most > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return float(norm)


@torch.no_grad()
def evaluate(job: Job, state: TrainState) -> dict[str, float]:
    """Metrics over what is held out; keeps in ``state`` which step was the best."""
    metrics = job.measure() if job.measure else _losses(job)
    _judge(job.section.best_metric, metrics, state)
    if job.recorder:
        job.recorder.evaluation(state.step, metrics)
    return metrics


def _losses(job: Job) -> dict[str, float]:
    """Metrics over the evaluation samples."""
    assert job.evaluation is not None
    job.spread.run.eval()
    sums: dict[str, torch.Tensor] = {}
    weight = 0.0
    for window in job.evaluation():
        for batch in window:
            with fast_linear(job.spread.module):
                out = run(job, batch)
            _add(sums, out, torch.float64)
            weight += batch.weight
    job.spread.run.train()
    (weight,) = job.mesh.sum([weight])
    pairs = _over_all(job.mesh, sums, weight).items()
    return {name: total / count for name, (total, count) in pairs if count}


def _judge(name: str, metrics: dict[str, float], state: TrainState) -> None:
    if name not in metrics:
        raise ConfigError(f"--metric_for_best_model: {name!r} is not one of {', '.join(metrics)}")
    value = metrics[name]
    better = state.best is None or (value < state.best if name == "loss" else value > state.best)
    state.stale = 0 if better else state.stale + 1
    if better:
        state.best, state.best_step = value, state.step


def _due(job: Job, step: int, when: str, every: int) -> bool:
    if when == "epoch":
        return step % job.steps_per_epoch == 0 or step == job.steps
    return when == "steps" and step % every == 0


def _eval_every(section: TrainSection) -> int:
    return section.eval_every or section.save_every


class _Clock:
    """Speed since the last line of metrics, and the time that is left."""

    def __init__(self, state: TrainState) -> None:
        self.begun = self.last = time.perf_counter()
        self.first_step = state.step
        self.positions, self.learned = state.positions, state.learned

    def lap(self, state: TrainState, steps: int) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        speed = {
            "tokens_per_s": (state.positions - self.positions) / seconds,
            "learned_per_s": (state.learned - self.learned) / seconds,
            "left_s": (now - self.begun) / (state.step - self.first_step) * (steps - state.step),
        }
        self.last, self.positions, self.learned = now, state.positions, state.learned
        return speed


def _report(job: Job, state: TrainState, clock: _Clock) -> None:
    """Pass on what happened since the last line."""
    speed = clock.lap(state, job.steps)
    metrics: dict[str, Any] = {
        **{name: total / count for name, (total, count) in state.sums.items() if count},
        "epoch": job.epoch(state.step),
        f"learned_{job.unit}": state.sums["loss"][1],
        "memory_gib": peak_bytes(job.mesh.device) / 2**30,
        f"learned_{job.unit}_per_s": speed.pop("learned_per_s"),
        **speed,
    }
    state.sums = {}
    job.progress.step(state.step, metrics["left_s"])
    if job.recorder:
        job.recorder.train(state.step, metrics)


def _diverged(step: int, norm: float, window: list[Batch]) -> str:
    places = [place for batch in window for place in batch.places]
    return (
        f"step {step}: the gradient is {norm}. Nothing was written over; lower --learning_rate, or "
        f"look at the rows of this step: {', '.join(places[:4])}{' ...' if len(places) > 4 else ''}"
    )
