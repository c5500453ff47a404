"""What the environment itself gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.rl.rewards.answer import column


def environment(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """The sum of an episode's rewards; None where its environment gave none."""
    return list(column(columns, "environment_reward", len(completions)))
