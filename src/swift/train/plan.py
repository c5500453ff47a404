"""Before the start: how a run is cut into steps, what it takes, and what would help if it is too
much. All of it from the model's shape; no weights are loaded.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from swift import registry
from swift.config.alignment import DpoSection
from swift.config.learned import each_token_of, scores_of
from swift.config.runs import TrainingConfig
from swift.config.tuner import LoraSection
from swift.data.batch import Batch
from swift.data.sample import Samples
from swift.data.stream import Order, group, lengths_of, mixed_groups
from swift.losses.cross_entropy import chunk_rows
from swift.models.anatomy import body, census, decoder_layers, vocabulary
from swift.models.attention import PACKED, run_body
from swift.models.load import context_length, load_config, load_shape
from swift.models.memory import free_bytes
from swift.models.parts import count_parts, parts
from swift.train.memory import (
    ALONE,
    GIB,
    Beside,
    Estimate,
    Probe,
    count_saved,
    held_bytes,
    parameters_estimate,
)
from swift.tune.tuned import Tuned

_LONGEST = 32_768


def max_length_of(config: TrainingConfig, base: Path) -> int:
    """The longest sample: as configured, else what the model was made for, within reason."""
    if config.data.max_length is not None:
        return config.data.max_length
    known = context_length(load_config(base, trust_remote_code=config.model.trust_remote_code))
    return min(known or 2048, _LONGEST)


def learning_rate_of(config: TrainingConfig) -> float:
    """The peak learning rate: as configured, else what suits what is trained."""
    if config.optimizer.learning_rate is not None:
        return config.optimizer.learning_rate
    return 1e-4 if isinstance(config.tuner, LoraSection) else 1e-5


def capacity_of(config: TrainingConfig, max_length: int) -> int:
    """Positions of a pack; without packing, those of the longest sample."""
    data = config.data
    return data.packing_length if data.packing and data.packing_length else max_length


def accumulation_of(config: TrainingConfig, processes: int) -> int:
    """Micro-batches of a step on one process: as configured, else so many that a step has 16
    samples or a few more.
    """
    size = config.train.batch_size * processes
    return config.train.accumulation or max(1, math.ceil(16 / size))


def order_of(config: TrainingConfig, samples: Samples, max_length: int, processes: int) -> Order:
    """How the samples are dealt out over steps; of a stream, its first ones."""
    capacity = capacity_of(config, max_length) if config.data.packing else None
    data, mix = config.data, None
    if data.modality_shares:
        shares, stopping = data.modality_shares, data.stopping
        groups, mix = mixed_groups(samples, capacity, data.packing_window, shares, stopping)
    else:
        groups = group(samples, capacity, data.packing_window)
    return Order(
        groups,
        config.train.batch_size,
        accumulation_of(config, processes),
        processes,
        config.data.shuffle,
        config.data.seed,
        config.train.drop_last,
        lengths_of(samples, groups) if config.data.group_by_length else None,
        mix,
    )


def eval_order_of(config: TrainingConfig, samples: Samples, processes: int) -> Order:
    """The same for the evaluation: every sample once, in order."""
    size = config.train.eval_batch_size or config.train.batch_size
    return Order(group(samples, None), size, 1, processes, shuffle=False)


def steps_of(config: TrainingConfig, order: Order) -> int:
    """Steps of the whole run: as many as are said, whatever epochs says."""
    if config.train.max_steps:
        return config.train.max_steps
    assert not config.data.streaming
    return math.ceil(config.train.epochs * order.steps_per_epoch)


@dataclass(frozen=True)
class Shape:
    """A model's measures without its weights."""

    tuned: Tuned
    probe: Probe
    layers: int
    vocabulary: int
    kinds: list[tuple[str, int, int]]  # parameters by module: name, all, learning
    parts: Sequence[tuple[str, int, int]] = ()  # the same by part, where there are several

    @property
    def learning(self) -> int:
        """Parameters that learn."""
        return sum(learning for _, _, learning in self.kinds)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(total for _, total, _ in self.kinds)

    def learning_parts(self) -> str:
        """What learns in each part, in a line; empty where there is but one."""
        return ", ".join(
            f"{learning / 1e6:,.2f}M of {total / 1e6:,.1f}M in the {part} part"
            for part, total, learning in self.parts
        )


def shape_of(config: TrainingConfig, base: Path, compute: torch.dtype) -> Shape:
    """Build the model without weights, tuner and all, and count what one position keeps."""
    model = load_shape(
        base,
        compute,
        trust_remote_code=config.model.trust_remote_code,
        scores=scores_of(config),
        each_token=each_token_of(config),
    )
    adapters = [] if config.model.merge else config.model.adapters
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*to a meta parameter")  # an adapter has a shape here
        tuned: Tuned = registry.build(config.tuner, model, adapters, "")
    layers, found = decoder_layers(model), parts(model)
    return Shape(
        tuned,
        probe_of(model, compute),
        len(layers),
        vocabulary(model),
        census(tuned.peft or model),
        count_parts(model, found) if found.several else (),
    )


def probe_of(model: PreTrainedModel, compute: torch.dtype) -> Probe:
    """Bytes a position of a model without weights.

    Without a device, attention is computed in a way that keeps its square as well, which no real
    kernel does: two lengths tell the part that grows with the position.
    """
    layers = len(decoder_layers(model))
    with contextlib.suppress(ValueError):
        model.set_attn_implementation(PACKED)
    model.train()
    short, long = (count_saved(_Body(model), _blank(length)) / length for length in (32, 64))
    kept = 2 * short - long
    width = body(model).get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    return Probe(kept, layers * width * compute.itemsize + kept / layers)


def _blank(length: int) -> Batch:
    """A batch of one sample without content, on the ``meta`` device."""
    empty = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens=torch.zeros(1, length, dtype=torch.int64, device="meta"),
        positions=torch.arange(length, device="meta")[None],
        learned_N=empty,
        targets_N=empty,
        weights_N=torch.zeros(0),
        starts_S=torch.tensor([0, length], dtype=torch.int32),
        bounds=(0, length),
        weight=0.0,
        count=length,
        packed=True,
        places=(),
    )


class _Body(torch.nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return run_body(self.model, batch)


@dataclass(frozen=True)
class Budget:
    """What a run takes on one device, what is free there, and which knobs would help."""

    estimate: Estimate
    free: int  # on the device, with what the process holds already
    again: bool  # whether activations are computed again in the backward pass
    savings: list[tuple[str, int]]  # knob, bytes it would save

    @property
    def fits(self) -> bool:
        """Whether it should fit, with a tenth to spare."""
        return self.estimate.total < 0.9 * self.free

    def advice(self) -> str:
        """The knobs that help, the strongest first."""
        lines = [
            f"  {knob:<44} saves about {saved / GIB:.2f} GiB"
            for knob, saved in sorted(self.savings, key=lambda item: -item[1])
            if saved > 0.01 * self.estimate.total
        ]
        return "\n".join(lines)


def budget_of(
    config: TrainingConfig,
    shape: Shape,
    order: Order,
    lengths: Any,
    max_length: int,
    compute: torch.dtype,
    device: torch.device,
    beside: Beside = ALONE,
) -> Budget:
    """Estimate the memory of a run and decide about gradient checkpointing."""
    positions = _largest_micro_batch(config, order, lengths, max_length)
    shared = order.processes if config.parallel.shard != "none" else 1
    fixed = parameters_estimate((shape.tuned.peft or shape.tuned.model).parameters(), shared)
    if not isinstance(config.tuner, LoraSection):
        fixed["weights"] = shape.parameters * 4 // shared
    rows = min(chunk_rows(shape.vocabulary, device), positions)
    logits = rows * shape.vocabulary * (4 + compute.itemsize)
    held = held_bytes(device)
    free = free_bytes(device) + held

    def estimate(again: bool) -> Estimate:
        acts = shape.probe.activations(positions, again=again) + int(positions * beside.kept)
        # what is gone before the first step counts as far as it is more than a step takes
        early = max(0, beside.early - fixed["gradients"] - fixed["optimizer"] - acts)
        others = beside.held + early
        return Estimate(process=held, activations=acts, logits=logits, other_models=others, **fixed)

    choice = config.train.gradient_checkpointing
    again = choice is True or (choice == "auto" and estimate(False).total > 0.8 * free)
    chosen = estimate(again)
    return Budget(chosen, free, again, _savings(config, shape, chosen, again, positions, compute))


def _largest_micro_batch(
    config: TrainingConfig, order: Order, lengths: Any, max_length: int
) -> int:
    if config.data.packing or config.data.streaming:
        return config.train.batch_size * capacity_of(config, max_length)
    top = sorted(lengths.tolist(), reverse=True)[: config.train.batch_size] if len(lengths) else [1]
    return int(sum(top))


def _savings(
    config: TrainingConfig,
    shape: Shape,
    estimate: Estimate,
    again: bool,
    positions: int,
    compute: torch.dtype,
) -> list[tuple[str, int]]:
    probe = shape.probe
    half = estimate.activations // 2
    found: list[tuple[str, int]] = []
    if not again:
        less = estimate.activations - probe.activations(positions, again=True)
        found.append(("--gradient_checkpointing true", less))
    if config.train.batch_size > 1:
        accumulation = (config.train.accumulation or 1) * 2
        size = config.train.batch_size // 2
        knob = f"--per_device_train_batch_size {size} --gradient_accumulation_steps {accumulation}"
        found.append((knob, half))
    else:
        longest = positions // config.train.batch_size
        found.append((f"--max_length {longest // 2}", half))
    if not isinstance(config.tuner, LoraSection):
        fixed = estimate.weights + estimate.gradients + estimate.optimizer
        found.append(("--tuner_type lora", fixed - shape.parameters * compute.itemsize))
        found.append(("NPROC_PER_NODE=2 and --parallel.shard parameters", fixed // 2))
    if estimate.other_models and isinstance(getattr(config, "rlhf", None), DpoSection):
        found.append(("--precompute_ref_log_probs true", estimate.other_models))
    if compute == torch.float32:
        lora = isinstance(config.tuner, LoraSection)
        less = (estimate.weights // 2 if lora else 0) + half
        found.append(("--torch_dtype bfloat16", less))
    return found


def sizes(kinds: Sequence[tuple[str, int, int]]) -> list[tuple[str, str, str]]:
    """The census for reading: modules that learn, and the rest as one line."""
    lines = [(name, f"{total:,}", f"{learning:,}") for name, total, learning in kinds if learning]
    rest = sum(total for _, total, learning in kinds if not learning)
    return [*lines, *([("frozen", f"{rest:,}", "0")] if rest else [])]
