"""Which of several answers to a query are worth learning from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Why = Literal["too easy", "none right", "not judged", "no answer"]


@dataclass(frozen=True)
class Drawn:
    """An answer, and what it was found to be worth. NaN: it was not judged."""

    message: Mapping[str, Any]  # as a row holds it
    text: str  # with its thinking
    outcome: float | None = None  # above 0: right; None: nothing judges outcomes
    process: float | None = None  # of the way to it; None: nothing judges that

    @property
    def value(self) -> tuple[float, float]:
        """Larger is better: outcomes first, ways among equal outcomes."""
        return self.outcome or 0.0, self.process or 0.0

    @property
    def judged(self) -> bool:
        """Whether all that should be known of it is known."""
        return not any(math.isnan(x) for x in (self.outcome, self.process) if x is not None)


@dataclass(frozen=True)
class Kept:
    """What becomes of the answers to a query."""

    best: tuple[Drawn, ...] = ()  # the best one first
    worst: Drawn | None = None
    why: Why | None = None  # why there is none
    repeated: int = 0  # answers that said the same as another


def choose(
    answers: Sequence[Drawn], most: int, *, least: float = 0.0, easy: float | None = None
) -> Kept:
    """The best of the answers that are right, each said once, and the worst of all.

    Right is an outcome above 0 and a way above ``least``, as far as these are judged. Where nothing
    judges, every answer is kept.

    Args:
        answers: to one query.
        most: answers that are kept.
        least: what a way must be above.
        easy: share of right outcomes from which the query is left out.
    """
    if not answers:
        return Kept(why="no answer")
    known = [answer for answer in answers if answer.judged]
    if not known:
        return Kept(why="not judged")
    said: dict[str, Drawn] = {}
    for answer in known:
        if answer.text not in said or answer.value > said[answer.text].value:
            said[answer.text] = answer
    repeated = len(known) - len(said)
    if all(answer.outcome is None and answer.process is None for answer in answers):
        return Kept(tuple(said.values()), repeated=repeated)
    right = [answer for answer in known if _is_right(answer, -math.inf)]
    if easy is not None and len(right) >= easy * len(answers):
        return Kept(why="too easy")
    order = sorted(said.values(), key=lambda answer: answer.value, reverse=True)
    best = [answer for answer in order if _is_right(answer, least)][:most]
    if not best:
        return Kept(why="none right")
    return Kept(tuple(best), order[-1], repeated=repeated)


def _is_right(answer: Drawn, least: float) -> bool:
    outcome = answer.outcome is None or answer.outcome > 0
    return outcome and (answer.process is None or answer.process > least)


def rows_of(
    kept: Kept, before: Sequence[Mapping[str, Any]], beside: Mapping[str, Any]
) -> list[Any]:
    """A row for each of the best answers, with the worst one where that is worse.

    Args:
        kept: of a query.
        before: its messages.
        beside: further columns of its row.
    """
    rows = []
    for answer in kept.best:
        row: dict[str, Any] = {**beside, "messages": [*before, answer.message]}
        if kept.worst is not None:
            row["score"] = round(sum(answer.value), 6)
        if kept.worst is not None and kept.worst.value < answer.value:
            row |= _rejected(kept.worst) | {"rejected_score": round(sum(kept.worst.value), 6)}
        rows.append(row)
    return rows


def _rejected(worst: Drawn) -> dict[str, Any]:
    """A worse answer, as text where it is no more than that."""
    plain = set(worst.message) == {"role", "content"} and isinstance(worst.message["content"], str)
    if plain:
        return {"rejected_response": worst.message["content"]}
    return {"rejected_messages": [worst.message]}
