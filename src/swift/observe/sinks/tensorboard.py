"""TensorBoard event files in the folder ``tensorboard`` of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorboardSink:
    """Writes scalars through TensorBoard's own event writer."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        """Open an event file."""
        self._writer = EventFileWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write scalars."""
        import time

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        event = Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
