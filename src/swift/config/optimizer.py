"""How weights move: the optimizer and the course of its learning rate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Section
from swift.registry import variant


class OptimizerSection(Section):
    """How weights move."""

    kind: str
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate. Default: 1e-4 for an adapter, 1e-5 for full training."""

    vit_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the towers that read media. Default: learning_rate."""

    aligner_lr: float | None = Field(None, gt=0)
    """Peak learning rate of what connects them with the language model. Default: learning_rate."""


@variant(OptimizerSection, "adamw", code="swift.optim.adamw:build")
class AdamWSection(OptimizerSection):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"

    weight_decay: float = Field(0.1, ge=0)
    """Decay of weight matrices per step, times the learning rate; biases and norms do not decay."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""

    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the mean of squared gradients."""

    epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the mean of squared gradients."""


class ScheduleSection(Section):
    """The course of the learning rate over the run, as a share of its peak."""

    kind: str

    warmup_ratio: float = Field(0.0, ge=0, le=1)
    """Share of all steps in which the rate rises from 0 to its peak."""

    warmup_steps: int = Field(0, ge=0)
    """Number of those steps; wins over warmup_ratio when above 0."""


@variant(ScheduleSection, "cosine", code="swift.optim.schedule:cosine")
class CosineSection(ScheduleSection):
    """Half a cosine from the peak to min_ratio."""

    kind: Literal["cosine"] = "cosine"

    min_ratio: float = Field(0.0, ge=0, le=1)
    """Where it ends, as a share of the peak."""


@variant(ScheduleSection, "linear", code="swift.optim.schedule:linear")
class LinearSection(ScheduleSection):
    """A straight line from the peak to min_ratio."""

    kind: Literal["linear"] = "linear"

    min_ratio: float = Field(0.0, ge=0, le=1)
    """Where it ends, as a share of the peak."""


@variant(ScheduleSection, "constant", code="swift.optim.schedule:constant")
class ConstantSection(ScheduleSection):
    """The peak after the warm-up, to the end."""

    kind: Literal["constant"] = "constant"


@variant(ScheduleSection, "wsd", code="swift.optim.schedule:wsd")
class WsdSection(ScheduleSection):
    """Warm-up, stable, decay (arXiv:2404.06395): the peak, then a fall over the last steps."""

    kind: Literal["wsd"] = "wsd"

    decay_ratio: float = Field(0.1, gt=0, le=1)
    """Share of all steps in which the rate falls."""

    min_ratio: float = Field(0.0, ge=0, le=1)
    """Where it ends, as a share of the peak."""
