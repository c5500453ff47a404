"""One JSON object a line in metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path


class JsonlSink:
    """Appends to ``metrics.jsonl``; every line is on disk when ``log`` returns."""

    def __init__(self, folder: Path, since: int = 0) -> None:
        """Open the file; of an earlier part of the run keep steps up to ``since``."""
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= since] if since else []
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(self.path)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **metrics}) + "\n")

    def close(self) -> None:
        """Nothing is held open."""


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file; a line that a kill cut short is left out."""
    lines: list[dict[str, float]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines
