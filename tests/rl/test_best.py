"""Which of several answers are kept."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swift.rl.best import Drawn, choose, rows_of


def drawn(text: str, outcome: float | None = None, process: float | None = None) -> Drawn:
    return Drawn({"role": "assistant", "content": text}, text, outcome, process)


def test_the_best_are_right_and_said_once_and_the_worst_is_beside_them() -> None:
    answers = [drawn("a", 0), drawn("b", 1, 0.2), drawn("c", 1, 0.9), drawn("c", 1, 0.9)]
    answers += [drawn("d", -1, 0.5), drawn("e", 2, 0.1)]
    kept = choose(answers, 2)
    assert [answer.text for answer in kept.best] == ["e", "c"]
    assert kept.worst is not None and kept.worst.text == "d" and kept.repeated == 1
    rows = rows_of(kept, [{"role": "user", "content": "?"}], {"id": "x"})
    assert [row["messages"][-1]["content"] for row in rows] == ["e", "c"]
    assert {row["rejected_response"] for row in rows} == {"d"}
    assert [(row["score"], row["rejected_score"]) for row in rows] == [(2.1, -0.5), (1.9, -0.5)]


def test_what_is_left_out_says_why() -> None:
    assert choose([], 5).why == "no answer"
    assert choose([drawn("a", 0), drawn("b", -1)], 5).why == "none right"
    assert choose([drawn("a", math.nan), drawn("b", math.nan)], 5).why == "not judged"
    half = [drawn("a", 1), drawn("b", 0)]
    assert choose(half, 5, easy=0.5).why == "too easy" and choose(half, 5, easy=0.6).best
    ways = [drawn("a", 1, 0.4), drawn("b", 1, 0.6)]
    assert [x.text for x in choose(ways, 5, least=0.5).best] == ["b"]
    assert choose(ways, 5, least=0.6).why == "none right"


def test_where_nothing_judges_every_answer_is_kept() -> None:
    kept = choose([drawn("a"), drawn("b"), drawn("a")], 1)
    assert [answer.text for answer in kept.best] == ["a", "b"] and kept.worst is None
    assert "rejected_response" not in rows_of(kept, [], {})[0]


def test_an_answer_that_thinks_is_rejected_as_a_message() -> None:
    thought = {"role": "assistant", "content": "no", "reasoning_content": "hm"}
    kept = choose([drawn("yes", 1), Drawn(thought, "<think>hm</think>no", 0)], 1)
    assert rows_of(kept, [], {})[0]["rejected_messages"] == [thought]


_ANSWERS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from([-1.0, 0.0, 0.5, 1.0, math.nan])),
    max_size=8,
)


@given(_ANSWERS, st.integers(1, 4))
def test_nothing_better_is_left_out(pairs: list[Any], most: int) -> None:
    answers = [drawn(text, outcome) for text, outcome in pairs]
    kept = choose(answers, most)
    assert len(kept.best) <= most and len({x.text for x in kept.best}) == len(kept.best)
    assert (kept.why is None) == bool(kept.best)
    left = {x.text for x in answers} - {x.text for x in kept.best}
    if kept.best and len(kept.best) < most:
        assert not any((x.outcome or 0) > 0 for x in answers if x.text in left and x.judged)
    for row in rows_of(kept, [], {}):
        assert row["score"] > row.get("rejected_score", -math.inf)
