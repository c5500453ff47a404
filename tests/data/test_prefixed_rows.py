"""Rows whose answers begin with a given text."""

from __future__ import annotations

from typing import Any

import pytest

from swift.chat.message import Conversation, Message
from swift.data.formats.form import formats, understand
from swift.errors import DataError

ASKED = {"role": "user", "content": "Who?"}


def answer(turn: dict[str, Any]) -> Message:
    found = understand({"messages": [ASKED, turn]}, formats())
    assert isinstance(found, Conversation)
    return found.messages[-1]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("Su", "Su"), (True, "Sure."), (False, ""), (None, ""), ("", ""), ("Sure.", "Sure.")],
)
def test_what_is_given_of_an_answer(prefix: Any, expected: str) -> None:
    turn = {"role": "assistant", "content": "Sure.", "prefix": prefix}
    assert answer(turn) == Message("assistant", "Sure.", prefix=expected)
    shared = {"conversations": [{"from": "human", "value": "Who?"}]}
    shared["conversations"].append({"from": "gpt", "value": "Sure.", "prefix": prefix})
    assert understand(shared, formats()).messages[-1].prefix == expected


REFUSED = [
    ({"content": "Sure.", "prefix": "No"}, "messages[1].content does not begin with its prefix 'N"),
    ({"content": "", "prefix": True}, "messages[1].prefix is true and the content is empty"),
    ({"content": "Sure.", "prefix": 5}, "messages[1].prefix should be the text with which"),
    ({"role": "user", "content": "Su", "prefix": True}, "messages[1].prefix should be the text"),
]


@pytest.mark.parametrize(("turn", "why"), REFUSED)
def test_a_prefix_that_makes_no_sense(turn: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as error:
        answer({"role": "assistant", **turn})
    assert str(error.value).startswith(why)
