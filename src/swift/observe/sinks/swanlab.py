"""SwanLab. Its own environment variables (SWANLAB_MODE, SWANLAB_API_KEY ...) apply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import swanlab


class SwanlabSink:
    """One SwanLab experiment."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Start an experiment; its files lie in the run's folder."""
        swanlab.init(experiment_name=name, config=dict(config), logdir=str(folder / "swanlab"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send scalars."""
        swanlab.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the experiment."""
        swanlab.finish()
