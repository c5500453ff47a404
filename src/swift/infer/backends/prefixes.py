"""What prompts were read to, kept for prompts that begin alike: a system prompt is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swift.infer.backends.stepper import Prompt
from swift.infer.backends.window import Keys

_LEAST = 16  # tokens; fewer are read as soon as found


@dataclass(frozen=True)
class _Kept:
    """Keys and values of a prompt's tokens."""

    tokens: list[int]
    adapter: str | None
    layers: list[Keys]


class Prefixes:
    """Prompts that were read, the last used last; as many as fit."""

    def __init__(self, most: int) -> None:
        """Begin with none.

        Args:
            most: tokens of all together.
        """
        self._most = most
        self._kept: list[_Kept] = []

    def begin(self, prompt: Prompt) -> None:
        """Give a new prompt the longest beginning that was read; its last token is never in it."""
        if prompt.featured:
            return
        alike = [(shared(one.tokens, prompt.tokens), one) for one in self._of(prompt.adapter)]
        size, best = max(alike, key=lambda pair: pair[0], default=(0, None))
        size = min(size, len(prompt.tokens) - 1)
        if best is None or size < _LEAST:
            return
        for number, (keys, values) in enumerate(best.layers):
            prompt.cache.update(keys[:, :, :size], values[:, :, :size], number)
        prompt.read = size
        self._kept.remove(best)
        self._kept.append(best)

    def keep(self, prompt: Prompt) -> None:
        """Remember a prompt that was read, in place of those that it goes on from."""
        tokens, adapter = list(prompt.tokens), prompt.adapter
        if prompt.featured or not _LEAST <= len(tokens) <= self._most:
            return
        self._kept = [
            one
            for one in self._kept
            if one.adapter != adapter or shared(one.tokens, tokens) < len(one.tokens)
        ]
        self._kept.append(_Kept(tokens, adapter, prompt.layers()))
        while sum(len(one.tokens) for one in self._kept) > self._most:
            self._kept.pop(0)

    def drop(self, adapter: str | None) -> None:
        """Forget what was read with an adapter that is no more."""
        self._kept = [one for one in self._kept if one.adapter != adapter]

    def clear(self) -> None:
        """Forget all."""
        self._kept = []

    def _of(self, adapter: str | None) -> list[_Kept]:
        return [one for one in self._kept if one.adapter == adapter]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two prompts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
