"""What the columns of a row mean: a fixture row -> the expected conversation, or a reason."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from swift import registry
from swift.chat.message import Conversation, Media, Message, Text, ToolCall
from swift.data.formats.form import Format, formats, understand
from swift.errors import DataError

KNOWN = formats()


def talk(*turns: Any, tools: Any = ()) -> Conversation:
    return Conversation(
        tuple(turn if isinstance(turn, Message) else Message(*turn) for turn in turns), tools
    )


HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ASK, SAY = ("user", "Hi"), ("assistant", "Hello")
PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "add"}}

ROWS: dict[str, list[tuple[dict[str, Any], Conversation | Text]]] = {
    "messages": [
        ({"messages": PLAIN}, talk(ASK, SAY)),
        ({"messages": json.dumps(PLAIN)}, talk(ASK, SAY)),
        ({"messages": PLAIN, "system": "Be brief."}, talk(("system", "Be brief."), ASK, SAY)),
        (
            {"messages": [{"role": "system", "content": "A"}, *PLAIN], "system": "B"},
            talk(("system", "A"), ASK, SAY),
        ),
        ({"messages": PLAIN, "tools": [TOOL]}, talk(ASK, SAY, tools=(TOOL,))),
        ({"messages": PLAIN, "tools": json.dumps([TOOL])}, talk(ASK, SAY, tools=(TOOL,))),
        ({"messages": PLAIN, "tools": "", "system": None}, talk(ASK, SAY)),
        (
            {"messages": [PLAIN[0], {**PLAIN[1], "loss": False}]},
            talk(ASK, Message("assistant", "Hello", weight=0.0)),
        ),
        (
            {"messages": [PLAIN[0], {**PLAIN[1], "weight": 0.25}]},
            talk(ASK, Message("assistant", "Hello", weight=0.25)),
        ),
        (
            {"messages": [PLAIN[0], {**PLAIN[1], "reasoning_content": "Hm"}]},
            talk(ASK, Message("assistant", "Hello", thinking="Hm")),
        ),
        (
            {
                "messages": [
                    PLAIN[0],
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
                    PLAIN[1],
                ]
            },
            talk(
                ASK,
                Message("assistant", tool_calls=(ToolCall("add", {"a": 1}, "c1"),)),
                Message("tool", "2", tool_call_id="c1", name="add"),
                SAY,
            ),
        ),
        (
            {
                "messages": [
                    PLAIN[0],
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": '{"x": [1]}'}}],
                    },
                ]
            },
            talk(ASK, Message("assistant", tool_calls=(ToolCall("f", {"x": [1]}),))),
        ),
        (
            {
                "messages": [
                    {"role": "human", "content": [{"type": "text", "text": "H"}, "i"]},
                    {"role": "gpt", "content": "Hello"},
                ]
            },
            talk(ASK, SAY),
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "a.png"}},
                            {"type": "text", "text": "What?"},
                        ],
                    },
                    PLAIN[1],
                ]
            },
            talk(Message("user", (Media("image", "a.png"), "What?")), SAY),
        ),
    ],
    "conversations": [
        (
            {"conversations": [HUMAN, GPT]},
            talk(ASK, SAY),
        ),
        (
            {
                "dialog": [{"from": "user", "value": "Hi"}, GPT],
                "system": "Be brief.",
            },
            talk(("system", "Be brief."), ASK, SAY),
        ),
        ({"conversation": PLAIN}, talk(ASK, SAY)),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "Hello"},
                ],
                "tools": "[]",
            },
            talk(
                ASK,
                Message("assistant", tool_calls=(ToolCall("add", {"a": 1}),)),
                ("tool", "2"),
                SAY,
            ),
        ),
    ],
    "instruction": [
        ({"instruction": "Add", "input": "1 2", "output": "3"}, talk(("user", "Add\n1 2"),
                                                                   ("assistant", "3"))),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, talk(ASK, SAY)),
        ({"instruction": "Hi", "output": "Hello"}, talk(ASK, SAY)),
        ({"instruction": "", "input": "Hi", "output": "Hello"}, talk(ASK, SAY)),
        (
            {"instruction": "Hi", "output": "Hello", "history": [["a", "b"]], "system": "S"},
            talk(("system", "S"), ("user", "a"), ("assistant", "b"), ASK, SAY),
        ),
        ({"instruction": "Hi", "output": "Hello", "history": "[]"}, talk(ASK, SAY)),
    ],
    "query": [
        ({"query": "Hi", "response": "Hello"}, talk(ASK, SAY)),
        ({"prompt": "Hi", "completion": "Hello"}, talk(ASK, SAY)),
        ({"question": "Hi", "answer": "Hello", "id": 7}, talk(ASK, SAY)),
        ({"问题": "Hi", "回答": "Hello"}, talk(ASK, SAY)),
        (
            {"query": "Hi", "response": "Hello", "history": [["a", "b"], ["c", "d"]]},
            talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ASK, SAY),
        ),
    ],
    "caption": [
        (
            {"image": "a.png", "text": "Hi", "answer": "Hello"},
            talk(Message("user", (Media("image", "a.png"), "Hi")), SAY),
        ),
    ],
    "text": [
        ({"text": "Swifts fly."}, Text("Swifts fly.")),
        ({"content": "Swifts fly.", "url": "x"}, Text("Swifts fly.")),
        ({"正文": "Swifts fly."}, Text("Swifts fly.")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "meaning"),
    [(name, row, meaning) for name, cases in ROWS.items() for row, meaning in cases],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_means(name: str, row: dict[str, Any], meaning: Conversation | Text) -> None:
    first = next(form for form in KNOWN if form.matches(row))
    assert first.name == name
    assert understand(row, KNOWN) == meaning


def test_every_registered_format_has_rows_and_an_example() -> None:
    assert {form.name for form in KNOWN} == set(ROWS)
    for form in KNOWN:
        example = json.loads(form.example.replace("...", '"x"'))
        assert next(known for known in KNOWN if known.matches(example)) is form
        assert form.read(example)


WRONG = [
    ({"messages": 5}, "messages should be a list"),
    ({"messages": None}, "messages should be a list"),
    ({"messages": "[{"}, "messages: not JSON"),
    ({"messages": ["a"]}, "messages[0] should be a JSON object with role and content"),
    ({"messages": [{"content": "a"}]}, "messages[0] has no role"),
    ({"messages": [{"role": 1, "content": "a"}]}, "messages[0] has no role"),
    ({"messages": [PLAIN[0], {"role": "assistant"}]}, "messages[1].content should be text, "
     "this is null"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content should be text, "
     "this is a number"),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content should be text, "
     "this is an object"),
    ({"messages": [{"role": "user", "content": True}]}, "messages[0].content should be text, "
     "this is true/false"),
    ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
     "messages[0].content[0] has type 'smell'; known are text, image, video and audio"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     "messages[0].content[0].text should be text, this is null"),
    ({"messages": [{**PLAIN[1], "reasoning_content": 5}]},
     "messages[0].reasoning_content should be text, this is a number"),
    ({"messages": [{**PLAIN[1], "tool_calls": "f"}]}, "messages[0].tool_calls should be a list"),
    ({"messages": [{**PLAIN[1], "tool_calls": [{}]}]},
     "messages[0].tool_calls[0] has no function name"),
    ({"messages": [{**PLAIN[1], "tool_calls": [{"name": "f", "arguments": "{"}]}]},
     "messages[0].tool_calls[0].arguments: not JSON"),
    ({"messages": [{**PLAIN[1], "tool_calls": [{"name": "f", "arguments": [1]}]}]},
     "messages[0].tool_calls[0].arguments should be a JSON object"),
    ({"messages": [{**PLAIN[1], "loss": "no"}]}, "messages[0].loss should be true, false"),
    ({"messages": [{**PLAIN[1], "loss": -1}]}, "messages[0].loss should be true, false"),
    ({"messages": [{**PLAIN[1], "loss": float("nan")}]}, "messages[0].loss should be true, false"),
    ({"messages": [{**PLAIN[1], "loss": float("inf")}]}, "messages[0].loss should be true, false"),
    ({"messages": [{**PLAIN[1], "loss": 10**400}]}, "messages[0].loss should be true, false"),
    ({"messages": PLAIN, "system": 5}, "system should be text, this is a number"),
    ({"messages": PLAIN, "tools": "[{"}, "tools: not JSON"),
    ({"messages": PLAIN, "tools": [5]}, "tools should be a list of JSON objects"),
    ({"conversations": ["a"]}, "conversations[0] should be a JSON object with from and value"),
    ({"conversations": [{"value": "a"}]}, "conversations[0] has no role"),
    ({"conversations": [{"from": "human"}]}, "conversations[0].value should be text, this is null"),
    ({"conversations": [{"from": "function_call", "value": "f("}]},
     "conversations[0].value: not JSON"),
    ({"conversations": [{"from": "function_call", "value": "[1]"}]},
     "conversations[0] has no function name"),
    ({"instruction": 5, "output": "a"}, "instruction should be text, this is a number"),
    ({"instruction": "a", "output": None}, "output should be text, this is null"),
    ({"instruction": "a", "input": ["b"], "output": "c"}, "input should be text, this is a list"),
    ({"query": "a", "response": 5}, "response should be text, this is a number"),
    ({"query": None, "response": "a"}, "query should be text, this is null"),
    ({"query": "a", "response": "b", "history": [["c"]]}, "history[0] should be a pair of texts"),
    ({"query": "a", "response": "b", "history": [["c", 5]]}, "history[0] should be text, "
     "this is a number"),
    ({"query": "a", "response": "b", "history": "[["}, "history: not JSON"),
    ({"text": None}, "text should be text, this is null"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "why"), WRONG, ids=lambda value: value if str(value) else "")
def test_a_wrong_row_names_its_column(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(row, KNOWN)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("row", "kind"),
    [([], "a list"), ("a", "a string"), (5, "a number"), (True, "true/false"), (None, "null")],
)
def test_a_row_is_an_object(row: Any, kind: str) -> None:
    with pytest.raises(DataError, match=f"a row should be a JSON object, this is {kind}"):
        understand(row, KNOWN)


@pytest.mark.parametrize(
    ("row", "closest"),
    [
        ({"mesages": []}, "messages"),
        ({"conversatons": []}, "conversations"),
        ({"instructions": "", "inputs": "", "outputs": ""}, "instruction"),
        ({"txt": ""}, "text"),
    ],
)
def test_unknown_columns_are_told_the_closest_form(row: dict[str, Any], closest: str) -> None:
    example = next(form.example for form in KNOWN if form.name == closest)
    with pytest.raises(DataError) as caught:
        understand(row, KNOWN)
    assert str(caught.value) == (
        f"columns not understood: {', '.join(row)}; the closest known row is {example} "
        "(rename with --columns)"
    )


def test_very_long_columns_are_cut_in_the_error() -> None:
    with pytest.raises(DataError) as caught:
        understand({"x" * 1_000_000: 1}, KNOWN)
    assert len(str(caught.value)) < 1000


def test_a_format_of_ones_own_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Format("mine", "{}", lambda row: "text" in row, lambda row: Text("mine"))
    monkeypatch.setattr(registry, "_ENTRIES", {k: dict(v) for k, v in registry._ENTRIES.items()})
    registry.register("format", "mine", "swift_test_format:FORMAT")
    module = ModuleType("swift_test_format")
    module.__dict__["FORMAT"] = mine
    monkeypatch.setitem(sys.modules, "swift_test_format", module)
    assert formats()[0] is mine
    assert understand({"text": "a"}, formats()) == Text("mine")
