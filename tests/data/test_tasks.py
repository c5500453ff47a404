"""Formats by task: which are known, what a row of another task is told, any task at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swift import registry
from swift.chat.message import Conversation, Text
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import TASKS, Format, formats, understand, understand_any
from swift.data.formats.meaning import (
    Classification,
    Embedding,
    Preference,
    Prompt,
    Ranking,
    Steps,
    Unpaired,
    conversations,
    kind_of,
)
from swift.errors import DataError

ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ALL: list[Format] = [form for task in TASKS for form in formats(task)]
MEANINGS: dict[str, Any] = {
    "chat": Conversation | Text,
    "preference": Preference,
    "unpaired": Unpaired,
    "embedding": Embedding,
    "ranking": Ranking,
    "relevance": Ranking,
    "steps": Steps,
    "classification": Classification,
    "prompt": Prompt,
}


def test_every_format_has_a_task() -> None:
    assert {form.name for form in ALL} == set(registry.entries("format"))
    assert set(MEANINGS) == set(TASKS)


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_an_example_is_a_row_of_its_format(form: Format) -> None:
    text = form.example
    for number in range(text.count("...")):  # no two texts of an example are the same
        text = text.replace("...", f'"{number}"', 1)
    example = json.loads(text)
    assert next(known for known in formats(form.task) if known.matches(example)) is form
    assert isinstance(form.read(example), MEANINGS[form.task])


PAIR = "this row is a preference pair (chosen, rejected), not a conversation: --columns "
ALONE = " learns the chosen answers alone"


@pytest.mark.parametrize(
    ("row", "task", "why"),
    [
        ({"chosen": [ASK, SAY], "rejected": [ASK]}, "chat",
         f"""{PAIR}'{{"chosen": "messages"}}'{ALONE}"""),
        ({"chosen": [{"from": "human", "value": "a"}], "rejected": []}, "chat",
         f"""{PAIR}'{{"chosen": "messages"}}'{ALONE}"""),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chat",
         """this row is a preference pair (prompt, chosen, rejected), not a conversation: """
         f"""--columns '{{"chosen": "response"}}'{ALONE}"""),
        ({"prompt": [ASK], "chosen": [SAY], "rejected": []}, "chat",
         """this row is a preference pair (prompt, chosen, rejected), not a conversation: """
         f"""--columns '{{"chosen": "response"}}'{ALONE}"""),
        ({"prompt": "a", "level": 1}, "chat",
         "this row is a prompt without an answer (prompt), not a conversation: "),
        ({"query": "a", "positive": "b"}, "chat",
         "this row is a group of texts for an embedding (positive), not a conversation: "),
        ({"sentence1": "a", "sentence2": "b"}, "chat",
         "this row is a group of texts for an embedding (sentence1, sentence2), not a conv"),
        ({"messages": []}, "preference",
         "this row is a conversation (messages), not a preference pair: "),
        ({"text": "a"}, "preference", "this row is a plain text (text), not a preference pair: "),
        ({"messages": [], "label": True}, "preference",
         "this row is a conversation (messages), not a preference pair: "),
        ({"what": 1}, "ranking", "columns not understood: what; the closest known row is "),
    ],
)  # fmt: skip
def test_a_row_of_another_task_is_told_so(row: dict[str, Any], task: str, why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(row, formats(task))
    assert str(caught.value).startswith(why)


def test_a_task_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="format mine: task 'dpo' is not chat, preference, "):
        Format("mine", "{}", lambda row: True, lambda row: Text(""), "dpo")


def test_the_advice_for_a_pair_gives_a_conversation() -> None:
    rows: list[tuple[dict[str, Any], str]] = [
        ({"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, "messages"),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "c"}, "response"),
        ({"prompt": [ASK], "chosen": [SAY], "rejected": [SAY]}, "response"),
    ]
    plain = understand({"messages": [ASK, SAY]}, formats())
    for row, name in rows:
        settings = EncodeSettings("chat", columns=(("chosen", name),))
        assert read_row(json.dumps(row).encode(), settings, formats()) == plain


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [ASK, SAY]}, "conversation"),
        ({"messages": [ASK, SAY], "label": 3}, "conversation"),
        ({"messages": [ASK, SAY], "label": True}, "unpaired"),
        ({"messages": [ASK], "label": 3}, "classification"),
        ({"messages": [ASK]}, "prompt"),
        ({"messages": [SAY]}, "conversation"),
        ({"messages": [ASK, SAY], "rejected_response": "a"}, "preference"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"query": "a", "response": "b"}, "conversation"),
        ({"query": "a", "response": "b", "rejected_response": ["c"]}, "embedding"),
        ({"query": "a", "solution": "b"}, "conversation"),
        ({"query": "a", "level": "b"}, "prompt"),
        ({"query": "a", "positive": "b"}, "embedding"),
        ({"query": "a", "documents": ["b"], "labels": [1]}, "ranking"),
        ({"messages": [ASK], "documents": ["b"], "labels": [1]}, "ranking"),
        ({"query": "a", "response": "b", "document": "c", "score": 1}, "conversation"),
        ({"text": "a", "label": 1}, "classification"),
        ({"text": "a", "label": "good"}, "text"),
        ({"prompt": "a", "label": "good"}, "prompt"),
        ({"text": "a"}, "text"),
    ],
)
def test_any_task_at_once(row: dict[str, Any], kind: str) -> None:
    found = understand_any(row)
    assert kind_of(found) == kind
    assert bool(conversations(found)) is (kind != "text")
    assert read_row(json.dumps(row).encode(), EncodeSettings("chat"), None) == found


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": 5}, "messages should be a list"),
        ({"messages": [5], "label": 3}, "messages[0] should be a JSON object"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        ({"what": 1}, "columns not understood: what; the closest known row is "),
        ([], "a row should be a JSON object, this is a list"),
    ],
)
def test_what_no_task_can_read(row: Any, why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand_any(row)
    assert str(caught.value).startswith(why)
