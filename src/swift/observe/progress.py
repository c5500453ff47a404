"""The course of a run in the terminal: a bar where there is a terminal, lines everywhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows steps as they are done."""

    def __init__(self, total: int, *, speaking: bool = True) -> None:
        self._total = total
        self._speaking = speaking
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: RichProgress | None = None
        if speaking and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
                console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=total, left="")
            self._bar.start()

    def step(self, step: int, left_s: float | None) -> None:
        """Move the bar."""
        if self._bar is not None:
            left = "" if left_s is None else f"{duration(left_s)} left"
            self._bar.update(self._task, completed=step, left=left)

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print a line of metrics."""
        if not self._speaking:
            return
        width = len(str(self._total))
        names = ("rewards/accuracies", "token_accuracy")
        right = next((metrics[name] for name in names if name in metrics), None)
        accuracy = "" if right is None else f"accuracy {right:.3f}  "
        text = (
            f"step {step:>{width}}/{self._total}  loss {metrics['loss']:.4f}  "
            f"{accuracy}lr {metrics['learning_rate']:.2e}  "
            f"grad norm {metrics['grad_norm']:.3f}  {metrics['tokens_per_s']:.0f} tokens/s  "
            f"{metrics['memory_gib']:.2f} GiB  {duration(metrics['left_s'])} left"
        )
        self._console.print(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """``0:01:23``."""
    return str(timedelta(seconds=round(seconds)))
