"""Answers read token by token."""

from __future__ import annotations

from collections.abc import Collection

from swift.chat.dialect import Dialect, held_back
from swift.chat.message import Delta, Message
from swift.chat.tokenizer import TokenStream


class Parser:
    """Reads an answer token by token."""

    def __init__(self, stream: TokenStream, stop_ids: Collection[int], dialect: Dialect) -> None:
        self._stream = stream
        self._stop_ids = stop_ids
        self._dialect = dialect
        self._marks = [mark for mark in dialect.marks if mark]
        self._text = ""
        self._told = Message("assistant", "")
        self.done = False

    def push(self, token: int) -> Delta:
        """What this token adds; text that may yet become a mark is held back."""
        if self.done:
            return Delta()
        if token in self._stop_ids:
            return self.close()
        self._text += self._stream.push(token)
        ready = len(self._text) - held_back(self._text, self._marks)
        return self._tell(self._dialect.read(self._text[:ready], whole=False))

    def close(self) -> Delta:
        """The answer has ended: what was held back."""
        if self.done:
            return Delta()
        self.done = True
        return self._tell(self.message())

    def message(self) -> Message:
        """The message so far."""
        return self._dialect.read(self._text)

    def _tell(self, now: Message) -> Delta:
        before, self._told = self._told, now
        return Delta(
            _added(str(before.content), str(now.content)),
            _added(before.thinking or "", now.thinking or ""),
            now.tool_calls[len(before.tool_calls) :],
        )


def _added(before: str, now: str) -> str:
    return now[len(before) :] if now.startswith(before) else ""
