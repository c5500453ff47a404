"""The course of a run: how long, how large a step, when to evaluate, save and stop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Section


class TrainSection(Section):
    """The course of a run: how long, how large a step, when to evaluate, save and stop."""

    epochs: float = Field(3.0, gt=0)
    """Passes over the data."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after this many steps, whatever epochs says."""

    batch_size: int = Field(1, ge=1)
    """Samples (or packs) in one forward pass on one device."""

    accumulation: int | None = Field(None, ge=1)
    """Forward passes in one step. Default: as many as make 16 samples over all devices."""

    drop_last: bool = False
    """Leave out the last step of an epoch when it is not full."""

    eval_batch_size: int | None = Field(None, ge=1)
    """Samples in one forward pass of the evaluation. Default: batch_size."""

    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0: never."""

    log_every: int = Field(5, ge=1)
    """Steps between two lines of metrics."""

    evaluate: Literal["steps", "epoch", "no"] = "steps"
    """When the evaluation runs, if there is something to evaluate on; unless `no`, also at the
    end."""

    eval_every: int | None = Field(None, ge=1)
    """Steps between two evaluations. Default: save_every."""

    save: Literal["steps", "epoch", "no"] = "steps"
    """When checkpoints are written; with `no` only one at the end."""

    save_every: int = Field(500, ge=1)
    """Steps between two checkpoints."""

    keep: int | None = Field(None, ge=1)
    """Checkpoints to keep; the best and the last one always stay. Default: all."""

    best_metric: str = "loss"
    """The evaluation metric that makes a checkpoint the best: loss (the lower the better), or one
    of those that grow, such as token_accuracy or rewards/accuracies."""

    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations in a row that were not better than the best."""

    save_only_model: bool = False
    """Write weights only: smaller checkpoints, but a killed run cannot be resumed."""

    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Compute activations again in the backward pass instead of keeping them: about a third more
    time, far less memory. auto: only when the estimate does not fit otherwise."""

    vit_gradient_checkpointing: bool | None = None
    """The same for the towers that read media. Default: as gradient_checkpointing."""

    seed: int = Field(42, ge=0)
    """Seed of adapters, dropout and everything else that is not data."""

    deterministic: bool = False
    """Use only kernels that give the same bits every time (some are slower)."""

    resume: bool | str = False
    """Go on from the last complete checkpoint of the output folder, or from the one given."""
