"""What a template writes for an answer: its text, its end, and how it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from swift.chat.dialect import PROBE_TOOLS, Dialect, find_dialect
from swift.chat.jinja import Template
from swift.chat.linear import Loop
from swift.chat.message import Message, ToolCall
from swift.errors import RenderError

Turn = Mapping[str, Any]
Spans = list[tuple[int, int]]

_COMPARED = 64  # conversations that are rendered both ways, before one rendering is relied on


class Beginnings(Protocol):
    """What a template writes for the first messages of a conversation."""

    def prompt(self, count: int) -> str:
        """So many messages, and the header of an answer to come."""

    def whole(self, count: int) -> tuple[str, Spans | None]:
        """So many messages, and where ``{% generation %}`` blocks lie; None: there are none."""


@dataclass(frozen=True)
class Apart:
    """Each number of messages is rendered by itself."""

    writer: Writer
    turns: Sequence[Turn]
    tools: Sequence[Turn]
    kwargs: Mapping[str, Any] | None

    def prompt(self, count: int) -> str:
        """See :class:`Beginnings`."""
        return self.writer.text(self.turns[:count], self.tools, True, self.kwargs)

    def whole(self, count: int) -> tuple[str, Spans | None]:
        """See :class:`Beginnings`."""
        return self.writer.marked(self.turns[:count], self.tools, self.kwargs)


def _agree(one: Beginnings, other: Beginnings, before: int) -> bool:
    """Whether an answer and its prompt are the same text in both."""
    return (one.prompt(before), one.whole(before + 1)) == (
        other.prompt(before),
        other.whole(before + 1),
    )


class Writer:
    """A template with the texts of the tokens at which an answer stops."""

    def __init__(self, template: Template | None, stops: Sequence[str]) -> None:
        self._template = template
        self._stops = stops
        self._headers_behind: dict[str, str] = {}
        self._dialects: dict[str, Dialect] = {}
        self._compared = 0

    def text(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]] = (),
        generate: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Messages as text; with ``generate`` also the header of an answer to come."""
        return self._known().render(turns, tools, generate=generate, kwargs=kwargs)

    def marked(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[str, Spans | None]:
        """The same with the places of ``{% generation %}`` blocks; None: there are none."""
        return self._known().render_marked(turns, tools, kwargs=kwargs)

    def beginnings(
        self, turns: Sequence[Turn], tools: Sequence[Turn], kwargs: Mapping[str, Any] | None
    ) -> Beginnings:
        """What it writes for the first messages of a conversation, for each number of them.

        The first conversations that are rendered at once are compared with what the template says
        when it is asked for each number.
        """
        apart = Apart(self, turns, tools, kwargs)
        try:
            found = self._loop.prefixes(turns, tools, kwargs) if self._loop else None
        except RenderError:  # of a message that may be behind all that are asked for
            return apart
        if found is not None and self._compared < _COMPARED:
            self._compared += 1
            answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
            if not all(_agree(found, apart, i) for i in answers):
                self._loop = found = None
        return found or apart

    @cached_property
    def _loop(self) -> Loop | None:
        return Loop.of(self._known())

    def _known(self) -> Template:
        if self._template is None:
            raise RenderError(
                "this checkpoint has no chat template; give one with --chat_template file.jinja, "
                "or use swift pt on plain text"
            )
        return self._template

    def ended(self, whole: str, start: int, turn: Turn, kwargs: Any) -> str:
        """The text of a turn with its stop token, also where the next header is that token."""
        if any(stop in whole[start:] for stop in self._stops):
            return whole
        role = "tool" if turn.get("tool_calls") else "user"
        if role not in self._headers_behind:
            self._headers_behind[role] = self._header_behind(role, kwargs)
        return whole + self._headers_behind[role]

    def _header_behind(self, role: str, kwargs: Any) -> str:
        """The stop token with which the template begins a turn behind an answer, or nothing."""
        calls = (ToolCall("zqfirst", {"zqkey": "zqvalue"}),) if role == "tool" else ()
        answer = Message("assistant", "zqsaid", tool_calls=calls)
        turns = [self.probe, self._turn(answer), {**self.probe, "role": role}]
        try:
            texts = [self.text(turns[:size], (), False, kwargs) for size in (2, 3)]
        except RenderError:
            return ""
        rest = texts[1][len(texts[0]) :] if texts[1].startswith(texts[0]) else ""
        return next((stop for stop in self._stops if rest.startswith(stop)), "")

    @cached_property
    def _header(self) -> str:
        """A prompt; some templates end every text with the header of an answer to come."""
        return self.text([self.probe], generate=True)

    @cached_property
    def in_parts(self) -> bool:
        """Whether the template reads contents only as lists of parts, as those with images may."""
        return "zquser" not in self._probed(False) and "zquser" in self._probed(True)

    def _turn(self, message: Message, as_text: bool = False) -> Turn:
        return message.for_template(text_arguments=as_text, in_parts=self.in_parts)

    def _probed(self, in_parts: bool) -> str:
        try:
            return self.text([Message("user", "zquser").for_template(in_parts=in_parts)])
        except RenderError:
            return ""

    def role(self, role: str) -> str:
        """The role under which the template reads a message.

        ``developer`` is the later name of ``system``: a template that does not know it would refuse
        it, leave it out, or write a header that its model has never seen.
        """
        return "system" if role == "developer" and not self._knows_developer else role

    @cached_property
    def _knows_developer(self) -> bool:
        if not self._known().names("developer"):
            return False
        said = self._turn(Message("developer", "zqsystem"))
        try:
            return "zqsystem" in self.text([said, self.probe])
        except RenderError:
            return False

    @cached_property
    def probe(self) -> Turn:
        """A question."""
        return self._turn(Message("user", "zquser"))

    def stop_in(self, whole: str, start: int, index: int) -> tuple[int, int]:
        """Where a turn's stop token lies: the first one, as inference stops there.

        Control tokens spelled in messages are marked, so a stop token found here is the template's.
        Another one may follow (some templates end every text with one); it is not learned.
        """
        found = [
            (at, at + len(stop)) for stop in self._stops if (at := whole.find(stop, start)) >= 0
        ]
        if not found:
            raise RenderError(
                f"message {index + 1} (assistant): the template writes no stop token after the "
                "answer, so the model would not learn to stop"
            )
        at, end = min(found)
        rest = whole[end:]
        for stop in self._stops:
            rest = rest.replace(stop, "")
        if rest.strip() and not self._header.endswith(rest):
            raise RenderError(
                f"message {index + 1} (assistant): the template writes text after the stop token"
            )
        return at, end

    def dialect(self, kwargs: Mapping[str, Any] | None = None) -> Dialect:
        """How thinking and tool calls are written, found once by asking the template."""
        key = json.dumps(kwargs or {}, sort_keys=True, default=str)
        if key not in self._dialects:
            known = self._template is not None
            self._dialects[key] = self._find_dialect(kwargs) if known else Dialect()
        return self._dialects[key]

    def _find_dialect(self, kwargs: Mapping[str, Any] | None) -> Dialect:
        found = find_dialect(
            partial(self._written, kwargs, False), partial(self._written, kwargs, True)
        )
        if found.calls is None and not self._takes_calls(kwargs, as_text=False):
            return replace(found, text_arguments=self._takes_calls(kwargs, as_text=True))
        return found

    def _takes_calls(self, kwargs: Mapping[str, Any] | None, *, as_text: bool) -> bool:
        turn = Message("assistant", tool_calls=(ToolCall("zqfirst", {"zqkey": "zqvalue"}),))
        try:
            self.text([self.probe, self._turn(turn, as_text)], (), False, kwargs)
        except RenderError:
            return False
        return True

    def _written(self, kwargs: Mapping[str, Any] | None, as_text: bool, message: Message) -> str:
        """The text of an answer, without its stop token."""
        tools = PROBE_TOOLS if message.tool_calls else ()
        prompt = self.text([self.probe], tools, True, kwargs)
        turn = self._turn(message, as_text)
        whole = self.text([self.probe, turn], tools, False, kwargs)
        whole = self.ended(whole, len(prompt), turn, kwargs)
        if not whole.startswith(prompt):
            raise RenderError("the template writes the answer differently from its prompt")
        return whole[len(prompt) : self.stop_in(whole, len(prompt), 1)[0]]
