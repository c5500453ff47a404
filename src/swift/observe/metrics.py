"""Numbers of a run -> the terminal, metrics.jsonl and trackers. A tracker that fails is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from swift import registry
from swift.errors import ConfigError, SwiftError
from swift.observe.log import Log
from swift.observe.progress import Progress
from swift.observe.sinks.jsonl import JsonlSink

registry.register(
    "sink", "tensorboard", "swift.observe.sinks.tensorboard:TensorboardSink", needs="tensorboard"
)
registry.register("sink", "wandb", "swift.observe.sinks.wandb:WandbSink", needs="wandb")
registry.register("sink", "swanlab", "swift.observe.sinks.swanlab:SwanlabSink", needs="swanlab")


class Sink(Protocol):
    """Where metrics go. Made with (folder, name of the run, configuration)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step; names such as ``train/loss``."""

    def close(self) -> None:
        """Finish."""


class Recorder:
    """Takes the numbers of a run and passes them on. Used by the first process alone."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        report: Sequence[str],
        log: Log,
        progress: Progress,
        since: int = 0,
    ) -> None:
        """Open all sinks.

        Args:
            folder: of the run.
            name: of the run, in trackers.
            config: of the run, for trackers.
            report: names of trackers.
            log: told of a tracker that fails.
            progress: shows the course in the terminal.
            since: a run that goes on: steps up to this one are kept in metrics.jsonl.
        """
        self._log = log
        self._progress = progress
        self._jsonl = JsonlSink(folder, since)
        self._sinks: dict[str, Sink] = {}
        for kind in report:
            try:
                self._sinks[kind] = registry.load("sink", kind)(folder, name, config)
            except Exception as error:  # whatever a tracker does, the run goes on
                self._drop(kind, error)

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of training since the last call."""
        self._progress.line(step, metrics)
        self._send(step, "train", metrics)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an evaluation."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._log(f"  evaluation at step {step}: {shown}")
        self._send(step, "eval", metrics)

    def close(self) -> None:
        """Finish every sink."""
        self._progress.close()
        for kind, sink in list(self._sinks.items()):
            try:
                sink.close()
            except Exception as error:
                self._drop(kind, error)

    def _send(self, step: int, group: str, metrics: Mapping[str, float]) -> None:
        named = {f"{group}/{name}": value for name, value in metrics.items()}
        self._jsonl.log(step, named)
        for kind, sink in list(self._sinks.items()):
            try:
                sink.log(step, named)
            except Exception as error:
                self._drop(kind, error)

    def _drop(self, kind: str, error: Exception) -> None:
        self._sinks.pop(kind, None)
        why = str(error) if isinstance(error, SwiftError) else repr(error)
        self._log.warn(f"{kind} is not reported to: {why}; the run goes on")


def check_report(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that nobody knows."""
    known = registry.entries("sink")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--report_to: {unknown[0]!r} is not one of {', '.join(known)}, none")
