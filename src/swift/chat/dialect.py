"""How a checkpoint writes thinking and tool calls inside an answer, found by asking its template.

The template is given answers whose every part is a word of its own (the probes); what it writes
around these words are the marks by which an answer is read again. No table of models is needed, and
a dialect that does not give its own probes back is not used.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from swift.chat.message import Message, ToolCall
from swift.errors import RenderError

Write = Callable[[Message], str]
"""An assistant message -> the text of that answer, without its stop token."""

_SAID, _THOUGHT = "zqsaid", "zqthought"
_IDS = ("zqid12345", "zqid54321")  # nine characters: some templates insist
_NAMES = ("zqfirst", "zqsecond")
_KEYS = ("zqkey", "zqword")
_VALUES = ("zqvalue", "zqterm")
_ID = "\ue002"  # stands for a call's id in a mark

PROBE_TOOLS: tuple[Mapping[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": key} for key in _KEYS},
                "required": [],
            },
        },
    }
    for name in _NAMES
)


@dataclass(frozen=True)
class Thinking:
    """Marks around thinking: in front of it, and between it and what is said."""

    before: str  # empty where the prompt has opened it
    behind: str
    none: str  # what stands in front of an answer without thinking

    def split(self, text: str) -> tuple[str | None, str]:
        """Thinking and the rest; None: there is none, or it is not there yet."""
        if self.none.strip() and text.startswith(self.none):
            return None, text[len(self.none) :]
        start = _after(text, self.before)
        if start is None:
            return None, text
        end = text.find(self.behind, start)
        if end >= 0:
            return text[start:end] or None, text[end + len(self.behind) :]
        close = self.behind.strip()
        end = text.find(close, start) if close else -1
        if end < 0:
            return text[start:] or None, ""
        return text[start:end].rstrip() or None, text[end + len(close) :].lstrip()


@dataclass(frozen=True)
class Tagged:
    """Marks of arguments that are written one by one: open key middle value close ..."""

    before: str
    middle: str
    behind: str

    def read(self, text: str, at: int) -> tuple[dict[str, Any], int] | None:
        """Arguments from a position on, and where they end."""
        found: dict[str, Any] = {}
        while (start := _here(text, self.before, at)) is not None:
            middle = text.find(self.middle, start)
            end = text.find(self.behind, middle + len(self.middle)) if middle >= 0 else -1
            if end < 0:
                return None
            found[text[start:middle]] = _value(text[middle + len(self.middle) : end])
            at = end + len(self.behind)
        return found, at


@dataclass(frozen=True)
class Json:
    """Arguments are a JSON object."""

    def read(self, text: str, at: int) -> tuple[dict[str, Any], int] | None:
        """Arguments from a position on, and where they end."""
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            return None
        return (value, end) if isinstance(value, dict) else None


@dataclass(frozen=True)
class Calls:
    """Marks of tool calls: start (open name middle arguments close) separator (...) finish."""

    start: str
    open: str
    middle: str
    close: str
    arguments: Json | Tagged
    joiner: str  # what stands between the text of an answer and its first call

    def split(self, text: str, *, whole: bool = True) -> tuple[str, tuple[ToolCall, ...]]:
        """What is said, and the calls behind it.

        Args:
            text: an answer.
            whole: it has ended; else what may become a call is not said yet.
        """
        calls, first, at = [], -1, 0
        pattern = _pattern(self.open)
        while found := pattern.search(text, at):
            read = self._read(text, found)
            if read is None and not whole:
                first = found.start() if first < 0 else first
                break
            if read is None:
                at = found.end()
                continue
            first = found.start() if first < 0 else first
            call, at = read
            calls.append(call)
        if first < 0:
            return text, ()
        said = text[:first]
        for mark in (self.joiner, self.start):
            if mark and said.endswith(mark):
                return said.removesuffix(mark), tuple(calls)
        core = self.start.strip()
        return (said.rstrip().removesuffix(core).rstrip() if core else said), tuple(calls)

    def _read(self, text: str, found: re.Match[str]) -> tuple[ToolCall, int] | None:
        middle = _pattern(self.middle).search(text, found.end())
        if middle is None:
            return None
        name = text[found.end() : middle.start()]
        arguments = self.arguments.read(text, middle.end())
        if arguments is None or not re.fullmatch(r"[\w.:/-]+", name):
            return None
        close = _pattern(self.close).match(text, arguments[1])
        if close is None:
            return None
        ids = [m["id"] for m in (found, middle, close) if "id" in m.re.groupindex]
        return ToolCall(name, arguments[0], ids[0] if ids else None), close.end()


@dataclass(frozen=True)
class Dialect:
    """What is known of how answers are written; None where nothing is."""

    thinking: Thinking | None = None
    calls: Calls | None = None
    text_arguments: bool = False  # the template wants arguments as the text of their JSON

    def read(self, text: str, *, whole: bool = True) -> Message:
        """The message that the text of an answer, or of its beginning, stands for."""
        thought: str | None = None
        if self.thinking:
            thought, text = self.thinking.split(text)
        calls: tuple[ToolCall, ...] = ()
        if self.calls:
            text, calls = self.calls.split(text, whole=whole)
        return Message("assistant", text, thinking=thought, tool_calls=calls)

    @property
    def marks(self) -> Iterator[str]:
        """Every mark that begins something: text that may become one is held back."""
        if self.thinking:
            yield from (self.thinking.before, self.thinking.behind, self.thinking.none)
        if self.calls:
            yield from (self.calls.start + self.calls.open, self.calls.joiner + self.calls.open)
            yield self.calls.open


def find_dialect(write: Write, write_text: Write) -> Dialect:
    """Ask a template how it writes answers.

    Args:
        write: writes an answer with the probe tools on offer.
        write_text: the same with the arguments of calls as the text of their JSON.
    """
    thinking = _find_thinking(write)
    always = thinking and _try(write, Message("assistant", _SAID)) is None
    for as_text, writer in ((False, write), (True, write_text)):
        if thinking and always:  # every answer thinks: what is behind it is looked at alone
            writer = partial(_behind_thinking, writer, thinking)
        around = None if always else thinking
        calls = _find_calls(writer, around)
        if calls and _proven(writer, Dialect(around, calls)):
            return Dialect(thinking, calls, as_text)
    return Dialect(thinking)


def _behind_thinking(write: Write, thinking: Thinking, message: Message) -> str:
    return thinking.split(write(replace(message, thinking=_THOUGHT)))[1]


def _find_thinking(write: Write) -> Thinking | None:
    with_it = _try(write, Message("assistant", _SAID, thinking=_THOUGHT))
    without = _try(write, Message("assistant", _SAID))
    if with_it is None:
        return None
    before, thought, rest = with_it.partition(_THOUGHT)
    behind, said, _ = rest.partition(_SAID)
    if not (thought and said and behind.strip()):
        return None
    none = without.partition(_SAID)[0] if without and _SAID in without else ""
    return Thinking(before, behind, none)


def _call(number: int, arguments: Mapping[str, Any]) -> ToolCall:
    return ToolCall(_NAMES[number], arguments, _IDS[number])


def _find_calls(write: Write, thinking: Thinking | None) -> Calls | None:
    """The marks, from one call, two calls, and a call behind a text."""
    plain = {_KEYS[0]: _VALUES[0]}
    one = _try(write, Message("assistant", tool_calls=(_call(0, plain),)))
    two = _try(write, Message("assistant", tool_calls=(_call(0, plain), _call(1, plain))))
    behind = _try(write, Message("assistant", _SAID, tool_calls=(_call(0, plain),)))
    if not one:
        return None
    arguments = _arguments(write, one)
    if arguments is None:
        return None
    kind, first, last = arguments
    head, _, middle = one[:first].partition(_NAMES[0])
    if not middle and not head:
        return None
    if thinking and thinking.none and head.startswith(thinking.none):
        head = head[len(thinking.none) :]
    tail = one[last:]
    between = _between(two, kind, one[first:last]) if two else None
    start, opening = _divide(head, between)
    close = _common(tail, between) if between is not None else tail
    joiner = (behind or "").partition(_SAID)[2].partition(_NAMES[0])[0]
    joiner = joiner.removesuffix(opening) if joiner.endswith(opening) else start
    return Calls(start, opening, middle, close, kind, joiner)


def _arguments(write: Write, one: str) -> tuple[Json | Tagged, int, int] | None:
    """How the arguments of a call are written, and where they lie in the probe of one call."""
    key = one.find(f'"{_KEYS[0]}"')
    if key >= 0:
        first = one.rfind("{", 0, key)
        found = Json().read(one, first) if first >= 0 else None
        return (Json(), first, found[1]) if found and _VALUES[0] in found[0].values() else None
    both = dict(zip(_KEYS, _VALUES, strict=True))
    text = _try(write, Message("assistant", tool_calls=(_call(0, both),)))
    places = [(text or "").find(word) for word in (_KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1])]
    if text is None or min(places) < 0 or places != sorted(places):
        return None
    name_end = text.find(_NAMES[0]) + len(_NAMES[0])
    lead = text[name_end : places[0]]
    middle = text[places[0] + len(_KEYS[0]) : places[1]]
    turn = text[places[1] + len(_VALUES[0]) : places[2]]
    tail = text[places[3] + len(_VALUES[1]) :]
    behind = _common(turn, tail)
    before = turn[len(behind) :]
    while before and not lead.endswith(before):  # white space belongs to one side or the other
        before, behind = before[1:], behind + before[0]
    if not (before and middle and tail.startswith(behind)):
        return None
    first = one.find(_KEYS[0]) - len(before)
    return Tagged(before, middle, behind), first, one.find(_VALUES[0]) + len(_VALUES[0] + behind)


def _between(two: str, kind: Json | Tagged, arguments: str) -> str | None:
    """What stands between the arguments of a first call and the name of a second."""
    end = two.find(arguments)
    name = two.find(_NAMES[1])
    return two[end + len(arguments) : name] if 0 <= end < name else None


def _divide(head: str, between: str | None) -> tuple[str, str]:
    """What stands before the first call only, and before every call."""
    if between is None:
        return "", head
    size = 0
    while size < min(len(head), len(between)) and head[-1 - size] == between[-1 - size]:
        size += 1
    return (head[: len(head) - size], head[len(head) - size :]) if size else ("", head)


def _common(left: str, right: str | None) -> str:
    """The longest common beginning."""
    size = 0
    while size < min(len(left), len(right or "")) and left[size] == (right or "")[size]:
        size += 1
    return left[:size]


def _proven(write: Write, dialect: Dialect) -> bool:
    """Whether answers that are written and read again come back."""
    nested = {"zqlist": [1, "a", None], "zqmap": {"b": 'quoted "text"\nnext line', "é": True}}
    calls = (_call(0, {_KEYS[0]: "a b"}), _call(1, {_KEYS[1]: "c, d"}))
    probes = [Message("assistant", "It is so.", tool_calls=calls[:1])]
    probes += [Message("assistant", tool_calls=(call,)) for call in calls]
    probes += [Message("assistant", tool_calls=(_call(0, nested),)), Message("assistant", "No.")]
    several = Message("assistant", tool_calls=calls)
    with contextlib.suppress(RenderError):  # some templates take one call at a time
        write(several)
        probes.append(several)
    try:
        return all(_comes_back(dialect, probe, write(probe)) for probe in probes)
    except RenderError:
        return False


def _comes_back(dialect: Dialect, given: Message, text: str) -> bool:
    if str(given.content) not in text:
        return True  # not written beside calls: such a turn is refused when it is met
    found = dialect.read(text)
    calls = [[(call.name, call.arguments) for call in m.tool_calls] for m in (found, given)]
    return str(found.content).strip() == given.content and calls[0] == calls[1]


def _try(write: Write, message: Message) -> str | None:
    """What is written, with ids as a sign of their own; None: the template refuses it."""
    try:
        text = write(message)
    except RenderError:
        return None
    for id in _IDS:
        text = text.replace(id, _ID)
    return text


def _pattern(mark: str) -> re.Pattern[str]:
    """A mark as a pattern that reads an id where one stood."""
    first, *rest = (re.escape(part) for part in mark.split(_ID))
    ids = [r"(?P<id>[\w.:-]+)", *[r"[\w.:-]+"] * len(rest)]
    return re.compile(first + "".join(id + part for id, part in zip(ids, rest, strict=False)))


def _after(text: str, mark: str) -> int | None:
    """Where a text goes on behind a mark that it begins with, up to white space around it."""
    if text.startswith(mark):
        return len(mark)
    core, bare = mark.strip(), text.lstrip()
    if core and bare.startswith(core):
        return len(text) - len(bare) + len(core)
    return None


def _here(text: str, mark: str, at: int) -> int | None:
    return at + len(mark) if text.startswith(mark, at) else None


def _value(text: str) -> Any:
    """A value without quotes: a number, list ... where it is JSON for one, else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def held_back(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of a text may still become one of the marks."""
    most = min(max((len(mark) for mark in marks), default=0) - 1, len(text))
    tail, first = text[len(text) - most :], {mark[0] for mark in marks if mark}
    for at, sign in enumerate(tail):
        if sign in first and any(
            len(mark) > most - at and mark.startswith(tail[at:]) for mark in marks
        ):
            return most - at
    return 0
