"""How long the parts of a round take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

PARTS = ("rollout_s", "reward_s", "score_s")


@dataclass
class Watch:
    """Seconds of each part since they were last read."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextlib.contextmanager
    def took(self, part: str) -> Iterator[None]:
        """Add what is done within to a part."""
        begun = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begun

    def read(self) -> dict[str, float]:
        """The seconds so far; from here on they are counted anew."""
        found, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return found
