"""Stop texts, cut exactly: no part of one is ever sent."""

from __future__ import annotations

from collections.abc import Sequence

from swift.chat.dialect import held_back


class Stops:
    """Looks for stop texts in a text that comes piece by piece.

    The one that ends first in the text wins, however the text is cut into pieces; of several that
    end at the same character the longest.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = sorted(texts, key=len, reverse=True)
        self._held = ""
        self.found: str | None = None

    @property
    def holding(self) -> bool:
        """Whether text is held back that may yet become a stop text."""
        return bool(self._held)

    def push(self, text: str) -> str:
        """What may be sent of the text so far; nothing more once a stop text was found."""
        if self.found is not None or not text:
            return ""
        if not self._texts:
            return text
        self._held += text
        ends = [(at + len(s), -len(s), s) for s in self._texts if (at := self._held.find(s)) >= 0]
        if ends:
            end, _, self.found = min(ends)
            ready, self._held = self._held[: end - len(self.found)], ""
            return ready
        keep = held_back(self._held, self._texts)
        ready, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return ready

    def close(self) -> str:
        """The text has ended: what was held back."""
        rest, self._held = self._held, ""
        return rest
