"""Answers that begin with a text which is given, not generated.

Where such a text ends in what a template writes is found as everything else here: the template
writes an answer that goes on with a word of its own, and is cut at that word. Training and
inference do the same with the same text, so both see the same prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swift.chat.dialect import Dialect
from swift.chat.message import TAGS, Message
from swift.errors import RenderError

_REST = "zqrestqz"  # stands for what the model will write ...
_SAID = "zqsaidqz"  # ... and for what it says when it has thought


@dataclass(frozen=True)
class Given:
    """A given text by its parts; ``content`` is None where it ends within its thinking."""

    thinking: str | None
    content: str | None

    @property
    def last(self) -> str:
        """The text behind which the model goes on."""
        return (self.thinking or "") if self.content is None else self.content

    def probe(self, message: Message) -> Message:
        """The answer with a word of its own behind what is given."""
        thinking = message.thinking if self.thinking is None else self.thinking
        if self.content is None:
            return Message("assistant", _SAID, self.last + _REST, prefix=message.prefix)
        return Message("assistant", self.content + _REST, thinking, prefix=message.prefix)

    def lead(self, message: Message) -> Message:
        """An answer that begins so; what is missing is put in front of it."""
        thinking, content = message.thinking, message.content
        if self.content is None and thinking is not None:
            thinking = _led(thinking, self.last)
        if self.content is not None and isinstance(content, str):
            content = _led(content, self.content)
        return replace(message, thinking=thinking, content=content)


def given(prefix: str, dialect: Dialect) -> Given:
    """The parts of a text with which an answer begins.

    Thinking is opened by the template's own mark, or by the one with which data sets write it.
    """
    marks = dialect.thinking
    if marks is None:
        return Given(None, prefix)
    bare, none = prefix.lstrip(), marks.none.strip()
    if none and bare.startswith(none):
        return Given(None, bare[len(none) :].lstrip("\n"))
    for before, behind in ((marks.before.strip(), marks.behind.strip()), TAGS):
        if before and bare.startswith(before):
            thinking, closed, content = bare[len(before) :].partition(behind)
            if closed:
                return Given(thinking.strip("\n"), content.lstrip("\n"))
            return Given(thinking.lstrip("\n"), None)
    return Given(None, prefix)


def cut(text: str, last: str, index: int) -> str:
    """What a template writes up to the end of a given text.

    Args:
        text: the probe as the template writes it, from behind the prompt.
        last: the text behind which the model goes on.
        index: of the message, for the error.

    Raises:
        RenderError: the template does not write it as it is.
    """
    head, found, rest = text.partition(_REST)
    if not found or _REST in rest or not head.endswith(last.lstrip()):
        raise RenderError(
            f"message {index + 1} (assistant): the template does not write its prefix as it is, so "
            "the model cannot go on from there"
        )
    return head


def _led(text: str, start: str) -> str:
    """A text that begins with another, up to white space around it."""
    bare, core = text.lstrip(), start.lstrip()
    if text.strip() == start.strip():
        return start
    return start + (bare[len(core) :] if bare.startswith(core) else text)
