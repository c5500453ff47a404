"""Weights & Biases. Its own environment variables (WANDB_PROJECT, WANDB_MODE ...) apply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb


class WandbSink:
    """One W&B run."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Start a run; its files lie in the run's folder."""
        self._run = wandb.init(dir=str(folder), name=name, config=dict(config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send scalars."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
