"""The learning rate as a share of its peak. Each function: (section, step, steps) -> share.

``step`` counts from 0; ``steps`` are all steps of the run.
"""

from __future__ import annotations

import math

from swift.config.optimizer import (
    ConstantSection,
    CosineSection,
    LinearSection,
    ScheduleSection,
    WsdSection,
)


def warmup_steps(section: ScheduleSection, steps: int) -> int:
    """Steps in which the rate rises."""
    return section.warmup_steps or math.ceil(section.warmup_ratio * steps)


def _rise(section: ScheduleSection, step: int, steps: int) -> float | None:
    """The share while the rate rises: 0 at step 0; None once it has risen."""
    warmup = warmup_steps(section, steps)
    return step / warmup if step < warmup else None


def _done(section: ScheduleSection, step: int, steps: int) -> float:
    """How far the run is behind the warm-up, 0 to 1."""
    warmup = warmup_steps(section, steps)
    return min(1.0, (step - warmup) / max(1, steps - warmup))


def cosine(section: CosineSection, step: int, steps: int) -> float:
    """Half a cosine from 1 to ``min_ratio`` (arXiv:1608.03983, without restarts)."""
    rising = _rise(section, step, steps)
    if rising is not None:
        return rising
    fall = 0.5 * (1 + math.cos(math.pi * _done(section, step, steps)))
    return section.min_ratio + (1 - section.min_ratio) * fall


def linear(section: LinearSection, step: int, steps: int) -> float:
    """A straight line from 1 to ``min_ratio``."""
    rising = _rise(section, step, steps)
    if rising is not None:
        return rising
    return 1 - (1 - section.min_ratio) * _done(section, step, steps)


def constant(section: ConstantSection, step: int, steps: int) -> float:
    """1 after the warm-up."""
    rising = _rise(section, step, steps)
    return 1.0 if rising is None else rising


def wsd(section: WsdSection, step: int, steps: int) -> float:
    """1 after the warm-up, then a straight line to ``min_ratio`` over the last steps
    (arXiv:2404.06395).
    """
    rising = _rise(section, step, steps)
    if rising is not None:
        return rising
    decay = math.ceil(section.decay_ratio * steps)
    left = steps - step
    share = 1.0 if left >= decay else left / decay
    return section.min_ratio + (1 - section.min_ratio) * share
