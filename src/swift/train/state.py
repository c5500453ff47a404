"""Where a run stands: everything but weights, optimizer and random numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainState:
    """Counts and marks that a run needs in order to go on."""

    step: int = 0  # optimizer steps done
    positions: int = 0  # positions computed, over all processes
    learned: float = 0.0  # weight of what was learned
    best: float | None = None  # best value of the chosen evaluation metric
    best_step: int | None = None
    stale: int = 0  # evaluations in a row that were not better
    sums: dict[str, list[float]] = field(
        default_factory=dict
    )  # a sum and what divides it: over all processes, since the last line of metrics

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
