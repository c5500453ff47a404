"""Workers prepare batches ahead of the step, a bounded number of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny
from swift.data.batch import Batch
from swift.data.sample import Sample
from swift.data.stream import AHEAD, Collate, Order, steps

STEPS = 60


@dataclass(frozen=True)
class Noting(Collate):
    """Says in a file how many batches were made."""

    file: Path = Path()

    def __call__(self, samples: list[Sample]) -> Batch:
        with self.file.open("a") as file:
            file.write("1\n")
        return super().__call__(samples)


@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_batches_are_ready_at_most(tmp_path: Path, workers: int) -> None:
    samples: Any = tiny.samples(*[20] * STEPS)
    order = Order([(i,) for i in range(STEPS)], shuffle=False)
    made = Noting(file=tmp_path / "made")
    batches = steps(samples, order, first=0, last=STEPS, collate=made, workers=workers)
    for taken, _ in enumerate(batches, 1):
        if taken in (3, 20):
            full, end = AHEAD * workers, time.monotonic() + 60
            while ready(made.file, taken) < full and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.3)  # time enough to make more
            assert ready(made.file, taken) == full
        assert ready(made.file, taken) <= AHEAD * workers


def ready(file: Path, taken: int) -> int:
    """Batches that were made and not taken yet."""
    return len(file.read_text().splitlines()) - taken
