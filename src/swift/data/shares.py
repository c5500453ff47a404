"""Modalities in their target shares: every step, on any number of processes, gets the mixture.

A modality is what a sample holds beside text: ``text`` for nothing, ``image``, ``audio``, or some
joined by ``+``. Axes: S samples, G groups, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.data.interleave import Stopping
from swift.errors import ConfigError

Array = np.ndarray[Any, Any]

Permute = Callable[[int, int, int], Array]
"""(groups, modality, round) -> an order of so many groups."""


@dataclass(frozen=True, eq=False)
class Mix:
    """Which groups are of which modality, and how large a part of every step each one is."""

    names: tuple[str, ...]  # (M)
    share_M: Array  # above 0, adds up to 1
    modality_G: Array  # every modality has a group
    stopping: Stopping

    @property
    def size_M(self) -> Array:
        """Groups of every modality."""
        return np.bincount(self.modality_G, minlength=len(self.names))

    @property
    def length(self) -> int:
        """Groups that an epoch takes.

        It ends when the first modality has given all its groups, or when each of them has; those
        that are short come back until then.
        """
        full_M = self.size_M / self.share_M
        end = full_M.min() if self.stopping == "first_exhausted" else full_M.max()
        return max(1, round(float(end)))

    def sequence(self, permute: Permute) -> Array:
        """The groups in the order in which an epoch takes them."""
        whose = turns(self.share_M, self.length)
        order = np.zeros(self.length, np.int64)
        for modality, size in enumerate(self.size_M.tolist()):
            own = np.flatnonzero(self.modality_G == modality)
            at = np.flatnonzero(whose == modality)
            rounds = [own[permute(size, modality, i)] for i in range(-(-len(at) // size))]
            order[at] = np.concatenate([*rounds, own[:0]])[: len(at)]
        return order

    def __str__(self) -> str:
        drawn_M = np.bincount(turns(self.share_M, self.length), minlength=len(self.names))
        return ", ".join(
            f"{name} {share:.0%} ({drawn:,} an epoch, of {size:,})"
            for name, share, drawn, size in zip(
                self.names, self.share_M, drawn_M.tolist(), self.size_M.tolist(), strict=True
            )
        )


def turns(share_M: Array, count: int) -> Array:
    """Whose turn it is, ``count`` times.

    The turns of each are at even distances, so every run of consecutive turns holds its share of
    them, but for one or two.
    """
    exact_M = share_M * count
    number_M = np.floor(exact_M).astype(np.int64)
    rest = np.argsort(number_M - exact_M, kind="stable")[: count - int(number_M.sum())]
    number_M[rest] += 1
    whose = np.repeat(np.arange(len(share_M)), number_M)
    when = [(np.arange(number) + 0.5) / number for number in number_M.tolist() if number]
    ordered: Array = whose[np.argsort(np.concatenate(when), kind="stable")]
    return ordered


def mix_of(
    names: Sequence[str], modality_G: Array, shares: Mapping[str, float], stopping: Stopping
) -> Mix:
    """The mixture that is asked for.

    Args:
        names: of the modalities that there are.
        modality_G: the number of every group's.
        shares: by name; their sum is taken for 1.
        stopping: when an epoch ends.

    Raises:
        ConfigError: there is a modality without a share, or a share of none that is there.
    """
    if set(names) != set(shares):
        there = ", ".join(sorted(names))
        raise ConfigError(
            f"--modality_shares names {', '.join(sorted(shares))}; the samples are of {there}: "
            "give each of these a share"
        )
    share_M = np.array([shares[name] for name in names], float)
    return Mix(tuple(names), share_M / share_M.sum(), modality_G, stopping)
