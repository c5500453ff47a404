"""Templates that write one message behind the other.

Where a template is one loop over the messages, and nothing in it or before it looks ahead, the text
of the first messages of a conversation is the beginning of the text of all of them. That is shown
from the template's syntax tree; then one rendering, with a mark behind each message, gives the
prompt of every answer. Of other templates each prompt is rendered by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from swift.chat.jinja import Template
from swift.chat.tokenizer import MARK
from swift.chat.verbatim import HOLE, Frame, plain_texts, writes_as_is

_FRAMES = 1000  # that are remembered, and tails
_CLOCK = "strftime_now"  # what it writes is not the same tomorrow

Turns = Sequence[Mapping[str, Any]]

_MESSAGES, _GENERATE = "messages", "add_generation_prompt"
_BACKWARD = {"first", "index", "index0", "previtem", "depth", "depth0"}
_ENDFOR = re.compile(r"\{%([-+]?)\s*endfor\s*[-+]?%\}")

_KNOWN = (
    *(nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.NSRef, nodes.Keyword, nodes.Pair),
    *(nodes.Literal, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call),
    *(nodes.BinExpr, nodes.UnaryExpr, nodes.Compare, nodes.Operand, nodes.Concat),
    *(nodes.CondExpr, nodes.Filter, nodes.Test),
)
"""Parts whose output depends on nothing but the names in them."""


def with_marks(source: str) -> str | None:
    """A template that writes a mark behind each message; None: it is not shown to be a plain loop.

    Args:
        source: the template.

    Returns:
        The template. Without the marks it writes the same, and what it writes up to the mark of a
        message does not depend on the messages behind it, nor on ``add_generation_prompt``; what
        it writes behind the last mark depends on no message at all. Where it skips a first system
        message in its loop, there is one mark less.
    """
    tree = _parse(source)
    at = None if tree is None else _loop_in(tree)
    if tree is None or at is None or not _is_linear(tree, at):
        return None
    for found in _ENDFOR.finditer(source):
        mark = f"{{%{found[1]} if true %}}{{{{ '{MARK}' }}}}{{% endif %}}"
        tried = f"{source[: found.start()]}{mark}{source[found.start() :]}"
        if _is_marked(tree, _parse(tried), at):
            return tried
    return None


def _copies(source: str) -> bool:
    """Whether a template that is a plain loop does nothing with texts but write them."""
    tree = _parse(source)
    loops = tree.find_all(nodes.For) if tree else ()
    names = [loop.target.name for loop in loops if isinstance(loop.target, nodes.Name)]
    return tree is not None and bool(names) and writes_as_is(tree, names[0])


def _parse(source: str) -> nodes.Template | None:
    """The syntax tree; None: it uses more than the language itself, ``{% break %}`` for one."""
    # blocks are trimmed as transformers does it: the text between them is part of the tree
    try:
        return Environment(trim_blocks=True, lstrip_blocks=True).parse(source)
    except TemplateError:
        return None


def _loop_in(tree: nodes.Template) -> int | None:
    """Which node of a template is its one loop over messages."""
    found = [i for i, node in enumerate(tree.body) if isinstance(node, nodes.For)]
    return found[0] if len(found) == 1 else None


def _is_linear(tree: nodes.Template, at: int) -> bool:
    loop, names = tree.body[at], _names_of_messages(tree)
    assert isinstance(loop, nodes.For)
    plain = not (loop.test or loop.else_ or loop.recursive)
    if not (plain and isinstance(loop.iter, nodes.Name) and loop.iter.name in names):
        return False
    stored = {n.name for n in tree.find_all(nodes.Name) if n.ctx == "store"}
    stored |= {n.name for n in tree.find_all(nodes.NSRef)}
    if stored & {_MESSAGES, _GENERATE, "loop", "namespace"} or _is_reused(tree, names):
        return False
    if any(node.name == _CLOCK for node in tree.find_all(nodes.Name)):
        return False
    hidden = {*names, *stored, "loop", "tools", "documents"}
    return (
        all(_looks_back(node, names) for node in tree.body[:at])
        and all(_looks_back(node, names) for node in loop.body)
        and all(_is_apart(node, hidden) for node in tree.body[at + 1 :])
    )


def _names_of_messages(tree: nodes.Template) -> set[str]:
    """Names for the messages, or for all of them but the first."""
    return {_MESSAGES} | {
        node.target.name
        for node in tree.find_all(nodes.Assign)
        if isinstance(node.target, nodes.Name) and _is_messages(node.node)
    }


def _is_reused(tree: nodes.Template, names: set[str]) -> bool:
    """Whether a name for the messages stands for something else too."""
    stores = [n.name for n in tree.find_all(nodes.Name) if n.ctx == "store" and n.name in names]
    meant = [n for n in tree.find_all(nodes.Assign) if _is_messages(n.node)]
    return len(stores) != len(meant)


def _is_messages(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        start, rest = node.arg.start, (node.arg.stop, node.arg.step)
        first = isinstance(start, nodes.Const) and start.value == 1 and rest == (None, None)
        return first and _is_messages(node.node)
    return isinstance(node, nodes.Name) and node.name == _MESSAGES


def _looks_back(node: nodes.Node, names: set[str]) -> bool:
    """Whether a part reads of the messages only the first, the present and those before it."""
    if isinstance(node, nodes.Assign) and _is_messages(node.node):
        return isinstance(node.target, nodes.Name)
    if isinstance(node, nodes.Getitem) and _is_name(node.node, {_MESSAGES}):
        return isinstance(node.arg, nodes.Const) and node.arg.value == 0
    if isinstance(node, nodes.Getattr | nodes.Getitem) and _is_name(node.node, {"loop"}):
        named = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        return named in _BACKWARD
    if _is_name(node, {*names, _GENERATE, "loop"}):
        return False
    return isinstance(node, _KNOWN) and all(
        _looks_back(part, names) for part in node.iter_child_nodes()
    )


def _is_apart(node: nodes.Node, hidden: set[str]) -> bool:
    """Whether a part reads none of these names."""
    if _is_name(node, hidden):
        return False
    return isinstance(node, _KNOWN) and all(
        _is_apart(part, hidden) for part in node.iter_child_nodes()
    )


def _is_name(node: nodes.Node, names: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names


def _is_marked(tree: nodes.Template, tried: nodes.Template | None, at: int) -> bool:
    """Whether a tree is the same but for a mark at the end of its loop."""
    if tried is None or len(tried.body) != len(tree.body):
        return False
    loop, marked = tree.body[at], tried.body[at]
    assert isinstance(loop, nodes.For)
    if not isinstance(marked, nodes.For) or not marked.body:
        return False
    last = marked.body[-1]
    mark = nodes.If(nodes.Const(True), [nodes.Output([nodes.Const(MARK)])], [], [])
    return (
        last == mark
        and marked.body[:-1] == loop.body
        and (marked.target, marked.iter) == (loop.target, loop.iter)
        and tried.body[:at] == tree.body[:at]
        and tried.body[at + 1 :] == tree.body[at + 1 :]
    )


@dataclass(frozen=True)
class Prefixes:
    """What a template writes for the first messages of a conversation, for every number of them."""

    text: str  # of all messages
    ends: Sequence[int]  # of every message in the text
    header: str  # of an answer to come
    tail: str  # behind messages where no answer is to come

    def prompt(self, count: int) -> str:
        """The first messages, and the header of an answer."""
        return self.text[: self.ends[count - 1]] + self.header

    def whole(self, count: int) -> tuple[str, None]:
        """The first messages; such a template marks no answers in them."""
        return self.text[: self.ends[count - 1]] + self.tail, None


class Loop:
    """A template that is a plain loop over messages."""

    def __init__(self, template: Template, copies: bool) -> None:
        self._template = template
        self._copies = copies  # conversations without tools: it does nothing but write their texts
        self._tails: dict[str, str] = {}
        self._frames: dict[tuple[str, ...], Frame | None] = {}

    @classmethod
    def of(cls, template: Template) -> Loop | None:
        """The loop of a template; None: it is not shown to be one."""
        sources = {name: with_marks(source) for name, source in template.sources.items()}
        known = {name: source for name, source in sources.items() if source is not None}
        if len(known) != len(sources):
            return None
        return cls(Template(known, template.variables), _copies(template.sources["default"]))

    def prefixes(
        self, turns: Turns, tools: Turns = (), kwargs: Mapping[str, Any] | None = None
    ) -> Prefixes | None:
        """The texts of the first turns; None: one that an answer stands behind is not in the loop.

        Raises:
            RenderError: the template refuses the conversation.
        """
        texts = plain_texts(turns) if self._copies and not tools and not kwargs else None
        frame = self._frame(tuple(turn["role"] for turn in turns)) if texts is not None else None
        if texts is not None and frame is not None:
            return Prefixes(*frame.filled(texts), frame.header, frame.tail)
        return self._rendered(turns, tools, kwargs)

    def _rendered(
        self, turns: Turns, tools: Turns, kwargs: Mapping[str, Any] | None
    ) -> Prefixes | None:
        text = self._template.render(turns, tools, generate=True, kwargs=kwargs)
        *pieces, header = text.split(MARK)
        outside = len(turns) - len(pieces)  # a system message that stands before the loop
        if outside not in (0, 1) or turns[outside]["role"] == "assistant" or MARK in str(kwargs):
            return None
        ends = list(accumulate(map(len, pieces)))
        tail = self._tail(turns, tools, kwargs)
        return Prefixes("".join(pieces), [0] * outside + ends, header, tail)

    def _tail(self, turns: Turns, tools: Turns, kwargs: Mapping[str, Any] | None) -> str:
        """The same for all conversations, so it is asked for once."""
        key = f"{bool(tools)}{kwargs or ''}"  # with tools there may be another template
        tail = self._tails.get(key)
        if tail is None:
            tail = self._template.render(turns, tools, kwargs=kwargs).rpartition(MARK)[2]
            if len(self._tails) < _FRAMES:  # rows may bring kwargs of their own
                self._tails[key] = tail
        return tail

    def _frame(self, roles: tuple[str, ...]) -> Frame | None:
        """What is written around the texts of messages with these roles; None: it is not known."""
        if roles not in self._frames and len(self._frames) < _FRAMES:
            holes = [{"role": role, "content": HOLE} for role in roles]
            whole = self._rendered(holes, (), None)
            self._frames[roles] = (
                Frame.of(whole.text, whole.ends, whole.header, whole.tail) if whole else None
            )
        return self._frames.get(roles)
