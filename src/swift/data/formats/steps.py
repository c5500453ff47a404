"""``{"prompt": ..., "completions": [...], "labels": [...]}``: steps of an answer, each judged."""

from __future__ import annotations

from typing import Any

from swift.data.formats.asked import asked, asked_in
from swift.data.formats.form import Format, Row, kind_word, list_of, text_of
from swift.data.formats.meaning import Steps
from swift.data.formats.messages import conversation
from swift.data.formats.query import first_of
from swift.errors import DataError

_STEPS, _LABELS = ("completions", "steps"), ("labels", "label")


def _label(value: Any, column: str) -> float:
    if value in (True, False, 0, 1):
        return float(value)
    raise DataError(f"{column} should be true or false, this is {kind_word(value)}")


def _read(row: Row) -> Steps:
    steps, labels = first_of(row, _STEPS), first_of(row, _LABELS)
    assert steps and labels
    said = [text_of(one, f"{steps}[{i}]") for i, one in enumerate(list_of(row[steps], steps))]
    judged = [_label(x, f"{labels}[{i}]") for i, x in enumerate(list_of(row[labels], labels))]
    if len(said) != len(judged) or not said:
        raise DataError(f"{steps} holds {len(said)}, {labels} {len(judged)}; a label for each step")
    messages = asked(row)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError(f"{asked_in(row)[0]} should end with what is asked")
    return Steps(conversation(messages, row), tuple(said), tuple(judged))


FORMAT = Format(
    "steps",
    '{"prompt": ..., "completions": ["first step", "second step"], "labels": [true, false]}',
    lambda row: bool(first_of(row, _STEPS) and first_of(row, _LABELS) and asked_in(row)),
    _read,
    "steps",
)
