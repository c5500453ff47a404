"""Several data sets in one order: which of them the next sample comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Stopping = Literal["first_exhausted", "all_exhausted"]

_DRAWS = 1 << 16  # at a time


def interleave(
    sizes: Sequence[int], weights: Sequence[float], stopping: Stopping, seed: int
) -> tuple[Array, Array]:
    """Draw data sets with probabilities, and of each its samples in turn.

    The draws are those of ``datasets.interleave_datasets`` with the same seed.

    Args:
        sizes: samples of every data set, all above 0.
        weights: one for each, above 0; probabilities are their shares of the sum.
        stopping: ``first_exhausted`` ends when a data set has given its last sample for the first
            time, ``all_exhausted`` when each of them has; a data set that has ended begins again.
        seed: of the draws.

    Returns:
        For every draw the data set, and the number of the sample in it.
    """
    drawn = _draws(np.asarray(sizes), np.asarray(weights, float), stopping, seed)
    number = np.zeros(len(drawn), np.int32)
    for dataset, size in enumerate(sizes):
        mine = np.flatnonzero(drawn == dataset)
        number[mine] = np.arange(len(mine)) % size
    return drawn, number


def _draws(sizes: Array, weights: Array, stopping: Stopping, seed: int) -> Array:
    random, share = np.random.default_rng(seed), weights / weights.sum()
    enough = np.any if stopping == "first_exhausted" else np.all
    counts, parts = np.zeros(len(sizes), np.int64), []
    while not enough(counts >= sizes):
        part = random.choice(len(sizes), size=_DRAWS, p=share).astype(np.int16)
        parts.append(part)
        before, counts = counts, counts + np.bincount(part, minlength=len(sizes))
    last = [
        np.flatnonzero(parts[-1] == dataset)[size - given - 1]
        for dataset, (size, given, now) in enumerate(zip(sizes, before, counts, strict=True))
        if given < size <= now
    ]
    end = min(last) if stopping == "first_exhausted" else max(last)
    return np.concatenate([*parts[:-1], parts[-1][: end + 1]])
