"""Templates that do nothing with the text of a message but write it.

What such a template writes around the texts depends on the roles alone, and conversations share
their roles: it is rendered once for each sequence of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jinja2 import nodes

_TYPES = {"string", "defined", "undefined", "none", "mapping", "iterable", "sequence", "number"}
"""Tests that come out the same for every text."""

HOLE = "\ue003"
"""Stands for a text while a frame is made."""


@dataclass(frozen=True)
class Frame:
    """What stands before and behind the text of every message."""

    heads: Sequence[str]
    feet: Sequence[str]
    header: str  # of an answer to come
    tail: str  # behind messages where no answer is to come

    @classmethod
    def of(cls, text: str, ends: Sequence[int], header: str, tail: str) -> Frame | None:
        """The frame in a text with holes; None: not every message has just one of them."""
        starts = [0, *ends[:-1]]
        parts = [text[a:b].split(HOLE) for a, b in zip(starts, ends, strict=True)]
        if any(len(part) != 2 for part in parts) or HOLE in header + tail:
            return None
        heads, feet = zip(*parts, strict=True)
        return cls(heads, feet, header, tail)

    def filled(self, texts: Sequence[str]) -> tuple[str, list[int]]:
        """The text of a conversation, and where each message ends in it."""
        parts = [
            head + text + foot
            for head, text, foot in zip(self.heads, texts, self.feet, strict=True)
        ]
        return "".join(parts), list(accumulate(map(len, parts)))


def plain_texts(turns: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The texts of turns that hold a role and a text and nothing else; None: one holds more.

    Texts with space around them count as more: templates may take it away.
    """
    texts = []
    for turn in turns:
        text = turn.get("content")
        if len(turn) != 2 or not isinstance(text, str) or text != text.strip():
            return None
        texts.append(text)
    return texts


def writes_as_is(tree: nodes.Template, message: str) -> bool:
    """Whether a template does nothing with texts but write them, space around them aside.

    Args:
        tree: of a template that reads messages one by one, and the first of them.
        message: its name for the message that it reads.
    """
    return all(_is_fit(node, message) for node in tree.body)


def _is_fit(node: nodes.Node, message: str) -> bool:
    """Whether each text in a part is written as it is, or not looked at."""
    if isinstance(node, nodes.Output):
        return all(_is_written(part, message) for part in node.nodes)
    if isinstance(node, nodes.Test) and node.name in _TYPES and _is_text(node.node, message):
        return True
    if isinstance(node, nodes.Compare) and _asks_for_key(node, message):
        return True
    if _is_message(node, message) or _is_text(node, message):
        return False
    inner = getattr(node, "node", None)
    if isinstance(node, nodes.Getattr | nodes.Getitem) and _is_message(inner, message):
        return _field(node) is not None  # of a plain message the same whatever its text
    if isinstance(node, nodes.For):
        return all(_is_fit(part, message) for part in (node.iter, *node.body))
    return all(_is_fit(part, message) for part in node.iter_child_nodes())


def _is_written(node: nodes.Node, message: str) -> bool:
    """The same of an expression that is written."""
    if isinstance(node, nodes.CondExpr):
        branches = [node.expr1, *([node.expr2] if node.expr2 else [])]
        return _is_fit(node.test, message) and all(_is_written(b, message) for b in branches)
    if isinstance(node, nodes.Add | nodes.Concat):
        return all(_is_written(part, message) for part in node.iter_child_nodes())
    return _is_text(_untrimmed(node), message) or _is_fit(node, message)


def _untrimmed(node: nodes.Node) -> nodes.Node:
    """What ``| trim`` or ``.strip()`` is done to; else the expression itself."""
    if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args and node.node:
        return node.node
    if isinstance(node, nodes.Call) and not node.args and isinstance(node.node, nodes.Getattr):
        return node.node.node if node.node.attr == "strip" else node
    return node


def _asks_for_key(node: nodes.Compare, message: str) -> bool:
    """``'name' in message``."""
    return isinstance(node.expr, nodes.Const) and all(
        operand.op in ("in", "notin") and _is_message(operand.expr, message) for operand in node.ops
    )


def _is_message(node: nodes.Node | None, message: str) -> bool:
    """Whether an expression is a message: the present one, the one before it, the first."""
    if isinstance(node, nodes.Name):
        return node.name == message and node.ctx == "load"
    if isinstance(node, nodes.Getattr | nodes.Getitem) and isinstance(node.node, nodes.Name):
        return (node.node.name, _field(node)) in (("messages", 0), ("loop", "previtem"))
    return False


def _is_text(node: nodes.Node, message: str) -> bool:
    """Whether an expression is the text of a message."""
    known = isinstance(node, nodes.Getattr | nodes.Getitem) and _field(node) == "content"
    return known and _is_message(getattr(node, "node", None), message)


def _field(node: nodes.Getattr | nodes.Getitem) -> Any:
    """The name or number that is asked of something; None: it is computed."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) else None
