"""Preferences, judged answers and prompts: a fixture row -> the expected meaning, or a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swift.chat.message import Conversation, Media, Message, ToolCall
from swift.data.formats.form import formats, understand
from swift.data.formats.meaning import Preference, Prompt, Unpaired, with_system
from swift.errors import DataError

PAIRS, JUDGED, PROMPTS = formats("preference"), formats("unpaired"), formats("prompt")


def talk(*turns: Any, tools: Any = ()) -> Conversation:
    return Conversation(
        tuple(turn if isinstance(turn, Message) else Message(*turn) for turn in turns), tools
    )


ASK, GOOD, BAD = ("user", "Hi"), ("assistant", "Hello"), ("assistant", "Go")
U, A, B = ({"role": role, "content": text} for role, text in (ASK, GOOD, BAD))
H, G, W = ({"from": who, "value": text}
           for who, text in (("human", "Hi"), ("gpt", "Hello"), ("gpt", "Go")))  # fmt: skip
PAIR = Preference(talk(ASK, GOOD), talk(ASK, BAD))
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
CALLED, RESULT = Message("assistant", tool_calls=(ToolCall("f", {}),)), ("tool", "1")
LED = Preference(talk(("system", "S"), ASK, GOOD), talk(("system", "S"), ASK, BAD))
LONG = Preference(
    talk(("user", "a"), ("assistant", "b"), ASK, GOOD),
    talk(("user", "a"), ("assistant", "b"), ASK, BAD),
)
SEEN = Message("user", (Media("image", "a.png"), "Hi"))

PREFERENCES: list[tuple[dict[str, Any], Preference]] = [
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, PAIR),
    ({"question": "Hi", "chosen": "Hello", "rejected": "Go", "system": "S"}, LED),
    ({"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go"}, PAIR),
    ({"prompt": "Hi", "chosen_response": "Hello", "rejected_response": "Go"}, PAIR),
    ({"prompt": [U], "chosen": [A], "rejected": [B]}, PAIR),
    ({"prompt": [U], "chosen": "Hello", "rejected": "Go"}, PAIR),
    ({"chosen": [U, A], "rejected": [U, B]}, PAIR),
    ({"prompt": "Hi", "chosen": [U, A], "rejected": [U, B], "score_chosen": 9}, PAIR),
    ({"prompt": "Hi", "messages": [U, A], "chosen": [U, A], "rejected": [U, B]}, PAIR),
    ({"conversations": [H], "chosen": G, "rejected": W}, PAIR),
    ({"messages": [U], "chosen": A, "rejected": B}, PAIR),
    ({"conversations": [H], "chosen": "Hello", "rejected": "Go", "system": "S"}, LED),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
     PAIR),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "history": [["a", "b"]]}, LONG),
    ({"messages": [U, A], "rejected_response": "Go"}, PAIR),
    ({"messages": [U, A], "rejected_response": B}, PAIR),
    ({"messages": [U, A], "rejected_response": [B]}, PAIR),
    ({"messages": json.dumps([U, A]), "rejected_response": "Go"}, PAIR),
    ({"messages": [U, A], "rejected_messages": [U, B]}, PAIR),
    ({"messages": [U, A], "rejected_messages": [B]}, PAIR),
    ({"conversations": [H, G], "rejected_response": "Go"}, PAIR),
    ({"query": "Hi", "response": "Hello", "rejected_response": "Go"}, PAIR),
    ({"query": "Hi", "response": "Hello", "output": 0, "rejected_response": "Go"}, PAIR),
    ({"query": "Hi", "response": "Hello", "rejected_response": "Go", "history": [["a", "b"]]},
     LONG),
    ({"instruction": "Add", "input": "1", "output": "2", "response": 0, "rejected_response": "3"},
     Preference(talk(("user", "Add\n1"), ("assistant", "2")),
                talk(("user", "Add\n1"), ("assistant", "3")))),
    ({"messages": [U, CALL, {"role": "tool", "content": "1"}, A], "rejected_response": [B]},
     Preference(talk(ASK, CALLED, RESULT, GOOD), talk(ASK, BAD))),
    ({"messages": [U, CALL, {"role": "tool", "content": "1"}, A], "rejected_response": "Go"},
     Preference(talk(ASK, CALLED, RESULT, GOOD), talk(ASK, CALLED, RESULT, BAD))),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "margin": 2},
     Preference(PAIR.chosen, PAIR.rejected, 2.0)),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go", "images": ["a.png"]},
     Preference(talk(SEEN, GOOD), talk(SEEN, BAD))),
    ({"messages": [U, A], "rejected_messages": [U, B], "images": ["a.png"],
      "rejected_images": ["b.png"]},
     Preference(talk(SEEN, GOOD), talk(Message("user", (Media("image", "b.png"), "Hi")), BAD))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "meaning"), PREFERENCES)
def test_a_pair(row: dict[str, Any], meaning: Preference) -> None:
    assert understand(row, PAIRS) == meaning


def test_what_both_begin_with() -> None:
    assert PAIR.shared == 1
    assert LONG.shared == 3


DIFFER = "chosen and rejected answer different prompts: message"
NO_PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    ({"chosen": [U, A], "rejected": [U, A]}, "chosen and rejected are the same"),
    ({"messages": [U, A], "rejected_response": "Hello"},
     "messages and rejected_response are the same"),
    ({"chosen": [U, A], "rejected": [{**U, "content": "Ho"}, B]}, f"{DIFFER} 1"),
    ({"chosen": [U, A, U, A], "rejected": [U, A, {**U, "content": "Ho"}, B]}, f"{DIFFER} 3"),
    ({"chosen": [U, A], "rejected": [U, A, U, B]}, f"{DIFFER} 3"),
    ({"chosen": "a", "rejected": "b"}, "chosen and rejected have no prompt"),
    ({"chosen": [A], "rejected": [B]}, "chosen and rejected have no prompt"),
    ({"chosen": [U, A], "rejected": [U]}, "rejected should end in an assistant's answer"),
    ({"chosen": [], "rejected": [U]}, "chosen should be text, this is a list"),
    ({"prompt": "Hi", "chosen": 5, "rejected": "b"}, "chosen should be text, this is a number"),
    ({"prompt": "Hi", "chosen": "a", "rejected": None}, "rejected should be text, this is null"),
    ({"prompt": "Hi", "chosen": "a", "rejected": {"from": "gpt"}},
     "rejected[0].value should be text"),
    ({"prompt": 5, "chosen": "a", "rejected": "b"}, "prompt should be text, this is a number"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": [1]},
     "margin should be a number, this is a list"),
    ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": float("nan")}, "margin should be"),
    ({"messages": [U, A], "chosen": "a", "rejected": "b"}, "messages should be the prompt"),
    ({"messages": [U], "rejected_response": "a"}, "messages should end in the assistant's answer"),
    ({"messages": 5, "rejected_response": "a"}, "messages should be a list"),
    ({"messages": [U, A], "rejected_response": None}, "rejected_response should be text"),
    ({"messages": [U, A], "rejected_response": [5]}, "rejected_response should be text"),
    ({"messages": [U, A], "rejected_messages": 5}, "rejected_messages should be a list"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "why"), NO_PAIRS)
def test_no_pair(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(row, PAIRS)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("row", "meaning"),
    [
        ({"prompt": "Hi", "completion": "Hello", "label": True}, Unpaired(PAIR.chosen, True)),
        ({"prompt": [U], "completion": [B], "label": False}, Unpaired(PAIR.rejected, False)),
        ({"prompt": "Hi", "completion": "Go", "label": "False"}, Unpaired(PAIR.rejected, False)),
        ({"messages": [U, A], "label": True}, Unpaired(PAIR.chosen, True)),
        ({"conversations": [H, W], "kto_tag": False}, Unpaired(PAIR.rejected, False)),
        (
            {"instruction": "Hi", "input": "", "output": "Hello", "kto_tag": True},
            Unpaired(PAIR.chosen, True),
        ),
    ],
)
def test_a_judged_answer(row: dict[str, Any], meaning: Unpaired) -> None:
    assert understand(row, JUDGED) == meaning


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": [U, A], "label": 1}, "label should be true or false, this is a number"),
        ({"messages": [U, A], "label": None}, "label should be true or false, this is null"),
        ({"messages": [U, A], "label": "good"}, "label should be true or false, this is a string"),
        ({"messages": [U], "label": True}, "the last message should be the assistant's answer"),
        ({"messages": [], "kto_tag": True}, "the last message should be the assistant's answer"),
    ],
)
def test_no_judged_answer(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        understand(row, JUDGED)


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("row", "meaning"),
    [
        ({"messages": [U]}, Prompt(talk(ASK))),
        ({"messages": [U, A]}, Prompt(talk(ASK), {"response": "Hello"})),
        ({"messages": [U, A], "response": 7}, Prompt(talk(ASK), {"response": 7})),
        ({"messages": [U], "solution": "4", "n": 1}, Prompt(talk(ASK), {"solution": "4", "n": 1})),
        (
            {"messages": [U, CALL, {"role": "tool", "content": "1"}, A], "tools": [TOOL]},
            Prompt(talk(ASK, CALLED, RESULT, tools=(TOOL,)), {"response": "Hello"}),
        ),
        (
            {"messages": [U, CALL]},
            Prompt(talk(ASK), {"response": CALLED.for_template()}),
        ),
        (
            {"conversations": [H, G], "level": 3},
            Prompt(talk(ASK), {"level": 3, "response": "Hello"}),
        ),
        ({"prompt": [U], "answer": "4"}, Prompt(talk(ASK), {"answer": "4"})),
        ({"prompt": "Hi"}, Prompt(talk(ASK))),
        (
            {"query": "Hi", "solution": ["4"], "label": 1, "system": "S"},
            Prompt(talk(("system", "S"), ASK), {"solution": ["4"], "label": 1}),
        ),
        (
            {"problem": "Hi", "answer": "4", "history": [["a", "b"]]},
            Prompt(talk(("user", "a"), ("assistant", "b"), ASK), {"answer": "4"}),
        ),
        ({"instruction": "Hi", "input": "x", "output": "y"},
         Prompt(talk(("user", "Hi\nx")), {"output": "y"})),
        ({"instruction": "x", "question": "Hi"}, Prompt(talk(ASK), {"instruction": "x"})),
        ({"messages": [U], "history": 1}, Prompt(talk(ASK), {"history": 1})),
        ({"question": "Hi", "image": "a.png", "answer": "4"}, Prompt(talk(SEEN), {"answer": "4"})),
    ],
)  # fmt: skip
def test_a_prompt(row: dict[str, Any], meaning: Prompt) -> None:
    assert understand(row, PROMPTS) == meaning


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": []}, "messages has no message of a user or a tool to answer"),
        ({"messages": [A]}, "messages has no message of a user or a tool to answer"),
        ({"messages": None}, "messages should be a list"),
        ({"prompt": None, "solution": "a"}, "prompt should be text, this is null"),
        ({"prompt": [5]}, "prompt should be text, this is a list"),
        ({"text": "a"}, r"this row is a plain text \(text\), not a prompt without an answer"),
    ],
)
def test_no_prompt(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        understand(row, PROMPTS)


def test_a_system_message_of_the_run_leads_both() -> None:
    assert with_system(PAIR, "S") == LED
    assert with_system(LED, "T") == LED
    assert with_system(Unpaired(PAIR.chosen, True), "S") == Unpaired(LED.chosen, True)
