"""What a run leaves behind."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from swift.observe.log import Log
from swift.train.checkpoint import latest
from swift.train.state import TrainState

_WHY = {
    "done": "done",
    "stopped": "stopped as asked; go on with --resume true",
    "early": "stopped early: the evaluation no longer gets better",
}


@dataclass(frozen=True)
class Outcome:
    """Where a run ended and what it leaves; folders as text, "" where there is none."""

    reason: str = ""
    folder: str = ""
    checkpoint: str = ""  # the last one
    best: str = ""  # the best one, if there was an evaluation
    steps: int = 0

    def announce(self, log: Log) -> None:
        """Say it, and keep it in ``result.json``."""
        (Path(self.folder) / "result.json").write_text(
            json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8"
        )
        log(f"{_WHY[self.reason]}: {self.steps} steps; last checkpoint: {self.checkpoint}")
        if self.best:
            log(f"best checkpoint: {self.best}")


def outcome(folder: Path, state: TrainState, reason: str) -> Outcome:
    """The outcome of a run that ended in ``folder``."""
    best = folder / f"checkpoint-{state.best_step}"
    last = folder / f"checkpoint-{state.step}"
    return Outcome(
        reason,
        str(folder),
        str(last if last.is_dir() else latest(folder) or ""),
        str(best) if state.best_step is not None and best.is_dir() else "",
        state.step,
    )
