"""How much the parts of a learned answer count: the strategies that a run names.

A strategy is a function of an answer's text, or of it and the text of the question before; it names
parts and the factor by which their tokens count more or less. Those here are known from ms-swift by
the same names. One of your own is registered by
``registry.register("learn", "mine", "module:function")``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

from swift import registry
from swift.config.learn import TURNS

Part = tuple[int, int, float]
"""A piece of a text (first character, end) and how much it is learned."""

Strategy = Callable[[str], Iterable[Part]] | Callable[[str, str], Iterable[Part]]

Factors = Mapping[str, float | tuple[float, float]]

_EMPTY = re.compile(r"\s*(<think>\s*</think>|</think>|<seed:think>.*?</seed:think>)\s*", re.DOTALL)
_OPENED = re.compile(r"\s*<think>\n?")
_CALL = re.compile(r"<tool_call>.+?</tool_call>", re.DOTALL)
_REACT: Factors = {"Action:": 2.0, "Action Input:": 2.0, "Observation:": (2.0, 0.0)}
_QWEN: Factors = {"✿FUNCTION✿:": 2.0, "✿ARGS✿:": 2.0, "✿RESULT✿:": (2.0, 0.0)}
_FLAN: Factors = {
    **dict.fromkeys(("Name:", "Action:", "ACTION:", "Tool:", "Command", "Arguments:"), (1.0, 3.0)),
    **dict.fromkeys(("action input", "ACTION_INPUT:", "Action Input:"), (1.0, 3.0)),
    "Observation:": (2.0, 0.0),
}
_FLAN_ASKED = (  # questions for a call alone: the answer as a whole counts so
    "What is the tool you want to use",
    "What are the required parameter names",
    "What is the value of",
)
_PLAIN = ("Thought:", "Final Answer:", "✿RETURN✿:")  # where an ordinary part begins


def strategies(learn: str) -> tuple[str, list[Strategy]]:
    """``last_round+hermes`` -> which turns are learned, and the strategies for their parts."""
    names = learn.split("+")
    which = [name for name in names if name in TURNS]
    return (which or ["default"])[-1], [registry.load("learn", n) for n in names if n not in which]


def ignore_empty_think(text: str) -> Iterator[Part]:
    """An empty thinking block at the start is read and not learned."""
    found = _EMPTY.match(text)
    if found and (not found[1].startswith("<seed") or "budget is 0" in found[1]):
        yield found.start(), found.end(), 0.0


def ignore_think_prefix(text: str) -> Iterator[Part]:
    """The mark that opens the thinking is read and not learned."""
    if found := _OPENED.match(text):
        yield found.start(), found.end(), 0.0


def hermes(text: str) -> Iterator[Part]:
    """Tool calls between ``<tool_call>`` and ``</tool_call>`` count twice."""
    for found in _CALL.finditer(text):
        yield found.start(), found.end(), 2.0


def react(text: str) -> Iterator[Part]:
    """ReAct: actions and their input count twice, observations are not learned."""
    return _marked(text, _REACT)


def alpha_umi(text: str) -> Iterator[Part]:
    """ReAct with a next step."""
    return _marked(text, {**_REACT, "Next:": 2.0})


def qwen(text: str) -> Iterator[Part]:
    """Qwen's own marks of functions and their results."""
    return _marked(text, _QWEN)


def agentflan(text: str, question: str) -> Iterable[Part]:
    """AgentFLAN (arXiv:2403.12881): names and arguments of calls count three times.

    So does all of an answer to a question for nothing else.
    """
    if any(asked in question for asked in _FLAN_ASKED):
        return [(0, len(text), 3.0)]
    return _marked(text, _FLAN)


def _marked(text: str, factors: Factors) -> Iterator[Part]:
    """Parts from one mark to the next; a pair is the factor of the mark and that of its part."""
    names = sorted([*factors, *_PLAIN], key=len, reverse=True)
    found = list(re.finditer("|".join(map(re.escape, names)), text))
    ends = [*(mark.start() for mark in found[1:]), len(text)]
    for mark, end in zip(found, ends, strict=False):
        factor = factors.get(mark[0])
        if factor is None:
            continue
        of_mark, of_part = factor if isinstance(factor, tuple) else (factor, factor)
        yield mark.start(), mark.end(), of_mark
        yield mark.end(), end, of_part


def factors_of(strategy: Strategy, answer: str, question: str) -> Iterable[Part]:
    """What a strategy says of an answer."""
    given = (answer, question)[: _parameters(strategy)]
    return strategy(*given)


@cache
def _parameters(strategy: Strategy) -> int:
    known = inspect.signature(strategy).parameters.values()
    return max(1, sum(parameter.default is inspect.Parameter.empty for parameter in known))


def scale(parts: Iterable[Part], factors: Iterable[Part]) -> list[Part]:
    """Parts with every piece that a factor covers multiplied by it."""
    found = list(parts)
    for left, right, factor in factors:
        cut: list[Part] = []
        for start, end, weight in found:
            first, last = max(start, left), min(end, right)
            if first >= last:
                cut.append((start, end, weight))
                continue
            pieces = [(start, first, weight), (first, last, weight * factor), (last, end, weight)]
            cut += [piece for piece in pieces if piece[0] < piece[1]]
        found = cut
    return found


def within(marked: Iterable[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """What ``{% generation %}`` blocks leave of an answer."""
    return [(max(a, start), min(b, end)) for a, b in marked if a < end and b > start]
