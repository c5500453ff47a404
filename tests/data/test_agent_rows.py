"""Traces of agents in every usual form: a fixture row -> the expected conversation, or a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swift.chat.message import Conversation, Media, Message, ToolCall
from swift.data.formats.form import formats, understand
from swift.errors import DataError

KNOWN = formats()
U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Done"}
ASK, DONE = Message("user", "Hi"), Message("assistant", "Done")
ADD, SUB = ToolCall("add", {"a": 1}), ToolCall("sub", {})
ADD_TEXT, SUB_TEXT = '{"name": "add", "arguments": {"a": 1}}', '{"name": "sub", "arguments": {}}'
TWO, ONE = Message("tool", "2"), Message("tool", "1")


def block(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


USE = block("tool_use", id="c1", name="add", input={"a": 1})
USED = ToolCall("add", {"a": 1}, "c1")

TRACES: list[tuple[list[Any], list[Message]]] = [
    ([U, {"role": "tool_call", "content": ADD_TEXT}, {"role": "tool_response", "content": "2"}, A],
     [ASK, Message("assistant", tool_calls=(ADD,)), TWO, DONE]),
    ([U, {"role": "tool_call", "content": ADD_TEXT}, {"role": "tool_call", "content": SUB_TEXT},
      {"role": "tool_response", "content": "2"}, {"role": "tool_response", "content": "1"}, A],
     [ASK, Message("assistant", tool_calls=(ADD, SUB)), TWO, ONE, DONE]),
    ([U, {"role": "tool_call", "content": f"[{ADD_TEXT}, {SUB_TEXT}]"}],
     [ASK, Message("assistant", tool_calls=(ADD, SUB))]),
    ([U, {"role": "tool_call", "content": json.loads(ADD_TEXT)}],
     [ASK, Message("assistant", tool_calls=(ADD,))]),
    ([U, {"role": "assistant", "content": "I add."}, {"role": "tool_call", "content": ADD_TEXT}],
     [ASK, Message("assistant", "I add.", tool_calls=(ADD,))]),
    ([U, {"role": "tool_call", "content": ADD_TEXT, "loss": False}],
     [ASK, Message("assistant", tool_calls=(ADD,), weight=0.0)]),
    ([U, {"role": "assistant", "content": None,
          "function_call": {"name": "add", "arguments": '{"a": 1}'}},
      {"role": "function", "name": "add", "content": "2"}, A],
     [ASK, Message("assistant", tool_calls=(ADD,)), Message("tool", "2", name="add"), DONE]),
    ([U, {"role": "assistant", "tool_calls": [{"id": 7, "function": {"name": "sub"}}]}],
     [ASK, Message("assistant", tool_calls=(ToolCall("sub", {}, "7"),))]),
    ([U, {"role": "tool_call", "content": '{"name": "add", "parameters": {"a": 1}}'},
      {"role": "tool", "content": {"sum": 2}}],
     [ASK, Message("assistant", tool_calls=(ADD,)), Message("tool", '{"sum": 2}')]),
    ([{"role": "user", "content": [block("text", text="Hi")]},
      {"role": "assistant", "content": [block("thinking", thinking="Hm", signature="x"),
                                        block("text", text="I add."), USE]},
      {"role": "user", "content": [block("tool_result", tool_use_id="c1", content="2")]}, A],
     [ASK, Message("assistant", "I add.", "Hm", (USED,)), Message("tool", "2", tool_call_id="c1"),
      DONE]),
    ([U, {"role": "assistant", "content": [USE, {**USE, "id": "c2", "name": "sub", "input": {}}]},
      {"role": "user", "content": [
          block("tool_result", tool_use_id="c1", content=[block("text", text="2")]),
          block("tool_result", tool_use_id="c2"), block("text", text="Go on")]}, A],
     [ASK, Message("assistant", tool_calls=(USED, ToolCall("sub", {}, "c2"))),
      Message("tool", "2", tool_call_id="c1"), Message("tool", "", tool_call_id="c2"),
      Message("user", "Go on"), DONE]),
    ([U, {"role": "assistant", "content": [USE]},
      {"role": "user", "content": [block("tool_result", tool_use_id="c1", content=[
          block("image", source={"type": "base64", "media_type": "image/png", "data": "AAAA"}),
      ])]}],
     [ASK, Message("assistant", tool_calls=(USED,)),
      Message("tool", (Media("image", "data:image/png;base64,AAAA"),), tool_call_id="c1")]),
]  # fmt: skip


@pytest.mark.parametrize(("turns", "messages"), TRACES)
def test_a_trace(turns: list[Any], messages: list[Message]) -> None:
    assert understand({"messages": turns}, KNOWN) == Conversation(tuple(messages))


def test_sharegpt_calls_and_rounds() -> None:
    call = {"from": "function_call", "value": ADD_TEXT}
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "I add."}, call, call]
    found = understand({"conversations": turns}, KNOWN)
    assert found == Conversation((ASK, Message("assistant", "I add.", tool_calls=(ADD, ADD))))
    rounds = {"conversation": [{"human": "Hi", "assistant": "Done"}] * 2, "system": "S"}
    assert understand(rounds, KNOWN) == Conversation((Message("system", "S"), ASK, DONE, ASK, DONE))


SHAPE = {"type": "object", "properties": {}}
BARE = {"name": "add", "description": "Adds", "parameters": SHAPE}
WHOLE = {"type": "function", "function": BARE}
FORMS: list[Any] = [
    [WHOLE],
    [{"function": BARE}],
    [BARE],
    [{"type": "function", **BARE}],
    [{"name": "add", "description": "Adds", "input_schema": SHAPE}],
    [json.dumps(BARE)],
    json.dumps([WHOLE]),
    json.dumps(BARE),
    BARE,
]


@pytest.mark.parametrize("tools", FORMS)
def test_tools_are_in_one_form(tools: Any) -> None:
    found = understand({"messages": [U, A], "tools": tools}, KNOWN)
    assert found == Conversation((ASK, DONE), (WHOLE,))


def test_what_a_template_reads_may_stand_in_a_row() -> None:
    row = {"query": "Hi", "response": "Done", "chat_template_kwargs": {"enable_thinking": False}}
    assert understand(row, KNOWN) == Conversation((ASK, DONE), (), {"enable_thinking": False})


def said(*blocks: Any, role: str = "assistant") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


RESULT = block("tool_result", tool_use_id="c1", content="2")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "tool_call", "content": "f("}]}, "messages[0].content: not JSON"),
    ({"messages": [{"role": "tool_call", "content": None}]}, "messages[0] has no function name"),
    ({"messages": [{"role": "tool_call", "content": '{"name": "f", "arguments": [1]}'}]},
     "messages[0].arguments should be a JSON object"),
    ({"messages": [A, {"role": "tool_call", "content": ADD_TEXT, "loss": 0}]},
     "messages[1] belongs to the answer before it: both need the same loss"),
    ({"messages": [{"role": "tool_call", "content": ADD_TEXT, "loss": "x"}]}, "messages[0].loss"),
    ({"messages": [{"role": "assistant", "function_call": "f"}]},
     "messages[0].function_call has no function name"),
    ({"messages": [{**A, "tool_call_id": [1]}]}, "messages[0].tool_call_id should be text"),
    ({"messages": [{**A, "name": {}}]}, "messages[0].name should be text, this is an object"),
    ({"messages": [{**A, "tool_calls": [{"id": [], "name": "f"}]}]},
     "messages[0].tool_calls[0].id should be text"),
    (said(USE, role="user"), "messages[0].content[0] is tool_use, which only an assistant's"),
    (said(RESULT), "messages[0].content[0] is tool_result, which only a user's"),
    (said({**USE, "name": 5}), "messages[0].content[0] has no function name"),
    (said({**USE, "input": [5]}), "messages[0].content[0].input should be a JSON object"),
    (said(USE, block("text", text="a")), "messages[0].content[1] stands behind a tool_use"),
    (said(block("thinking", thinking=5)), "messages[0].content[0].thinking should be text"),
    (said({**RESULT, "content": 5}, role="user"), "messages[0].content[0].content should be text"),
    (said(USE, 5), "messages[0].content[1] stands behind"),
    (said(5, USE), "messages[0].content[0] has type None"),
    (said(block("redacted_thinking", data="x"), USE), "messages[0].content[0] has type 'redacted"),
    ({"messages": [U, A], "tools": [{"name": 5}]}, "tools[0] has no name"),
    ({"messages": [U, A], "tools": ["{"]}, "tools[0]: not JSON"),
    ({"messages": [U, A], "tools": [WHOLE, 5]}, "tools should be a list of JSON objects, tools[1]"),
    ({"messages": [U, A], "chat_template_kwargs": [1]}, "chat_template_kwargs should be a JSON "),
]  # fmt: skip


@pytest.mark.parametrize(("row", "why"), WRONG)
def test_a_wrong_trace_names_its_place(row: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError) as caught:
        understand(row, KNOWN)
    assert str(caught.value).startswith(why)
