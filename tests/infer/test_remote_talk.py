"""Messages answered by an OpenAI-compatible server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import swift
import tiny
from infer.stand_in import Reply, serve
from processes import fail, run
from swift.chat.message import Conversation, Delta, Media, Message, ToolCall
from swift.config.parse import read
from swift.config.runs import InferConfig
from swift.errors import ConfigError, DataError, ServerError
from swift.infer.backends.client import Address
from swift.infer.engine import Guide, Sampling
from swift.infer.remote import RemoteTalker

QUESTION = Conversation((Message("user", "Weather?"),))
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"city": "Paris"}'},
}


def said(message: dict[str, Any], reason: str = "stop") -> Reply:
    return Reply(body={"choices": [{"message": message, "finish_reason": reason}]})


def talker(url: str, **sampling: Any) -> RemoteTalker:
    return RemoteTalker(Address(url, pause_s=0.01), "m", Sampling(**{"max_tokens": 9, **sampling}))


def test_what_is_sent_and_what_is_heard() -> None:
    reply = said({"content": "Rain.", "reasoning_content": "Hm.", "tool_calls": [CALL]}, "length")
    history = (Message("system", "Be brief."), *QUESTION.messages)
    with serve(lambda *_: reply) as server:
        schema = {"type": "object"}
        one = talker(server.url, temperature=0.5, seed=3, guide=Guide("json", schema))
        asked = Conversation(history, tools=({"type": "function", "function": {"name": "look"}},))
        [(message, completion)] = one.answers([asked])
    call = ToolCall("look", {"city": "Paris"}, "c1")
    assert message == Message("assistant", "Rain.", "Hm.", (call,))
    assert completion.finish_reason == "length"
    [(path, body, _)] = server.asked
    assert path == "/chat/completions"
    assert body == {
        "model": "m", "stream": False, "max_tokens": 9, "temperature": 0.5, "seed": 3,
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": schema, "strict": True}},
    }  # fmt: skip


def test_a_stream_is_put_together() -> None:
    def delta(reason: str | None = None, **delta: Any) -> dict[str, Any]:
        return {"choices": [{"delta": delta, "finish_reason": reason}]}

    head = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"ci'}}
    rest = {"index": 0, "function": {"arguments": 'ty": "Paris"}'}}
    events = [delta(role="assistant"), delta(reasoning="Hm."), delta(content="Ra"),
              delta(content="in."), delta(tool_calls=[head]), delta(tool_calls=[rest]),
              delta("tool_calls"), {"choices": [], "usage": {}}, "[DONE]"]  # fmt: skip
    shown: list[Delta] = []
    with serve(lambda *_: Reply(events=events)) as server:
        message = talker(server.url).stream(QUESTION, shown.append)
    call = ToolCall("look", {"city": "Paris"}, "c1")
    assert message == Message("assistant", "Rain.", "Hm.", (call,))
    assert [(d.content, d.thinking, d.tool_calls) for d in shown] == [
        ("", "Hm.", ()), ("Ra", "", ()), ("in.", "", ()), ("", "", (call,))
    ]  # fmt: skip


def test_a_stream_that_ends_within_the_answer_is_named() -> None:
    events = [{"choices": [{"delta": {"content": "Ra"}, "finish_reason": None}]}]
    with (
        serve(lambda *_: Reply(events=events)) as server,
        pytest.raises(ServerError, match="ended before the answer"),
    ):
        talker(server.url).stream(QUESTION, lambda _: None)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"tool_calls": [{"function": {"name": "f", "arguments": '"Paris"'}}]}, "no mapping"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "no mapping"),
        ({"tool_calls": ["f"]}, "no mapping"),
        (None, "without a message"),
    ],
)
def test_answers_that_make_no_sense_are_named(message: Any, why: str) -> None:
    with serve(lambda *_: said(message)) as server, pytest.raises(ServerError, match=why):
        talker(server.url).answers([QUESTION])


def test_what_cannot_be_sent_is_refused_before() -> None:
    with pytest.raises(ConfigError) as caught:
        talker("http://nowhere", top_k=5, min_p=0.1, guide=Guide("regex", "a"))
    assert caught.value.problems == [
        "the http engine has no top_k",
        "the http engine has no min_p",
        "the http engine has no guided generation but JSON",
    ]
    one = talker("http://nowhere")
    for asked, why in (
        (Conversation((Message("user", (Media("image", "a.png"), "?")),)), "media"),
        (Conversation((*QUESTION.messages, Message("assistant", prefix="It"))), "has begun"),
        (Conversation(QUESTION.messages, template_kwargs={"x": 1}), "template of its own|its own"),
    ):
        with pytest.raises(DataError, match=why):
            one.answers([asked])


def test_a_data_set_is_answered_by_a_server(tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.chats(5))
    words = ["infer", "--infer_backend", "http", "--model", "m", "--max_new_tokens", 7]
    words += ["--val_dataset", rows, "--result_path", "a.jsonl"]

    def answer(_: int, __: str, body: dict[str, Any]) -> Reply:
        return said({"content": f"You said {body['messages'][-1]['content']}"})

    with serve(answer) as server:
        run([*words, "--base_url", f"{server.url}/v1/"], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    asked = [line["messages"][-2]["content"] for line in lines]
    assert [line["response"] for line in lines] == [f"You said {text}" for text in asked]
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}
    code, text = fail(words, tmp_path)
    assert code == 2 and "--base_url" in text and "is needed with --infer_backend http" in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--infer_backend", "http", "--base_url", "x", "--adapters", "y"], "a server loads its"),
        (["--base_url", "x"], "belongs to --infer_backend http"),
        (
            ["--infer_backend", "http", "--base_url", "x", "--enable_thinking"],
            "template of its own",
        ),
    ],
)
def test_settings_that_contradict_each_other(words: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(InferConfig, "infer", ["--model", "m", *words])


def test_a_script_talks_to_a_server() -> None:
    with serve(lambda *_: said({"content": "Rain."})) as server:
        chat = swift.Chat(model="m", infer_backend="http", base_url=server.url, system="Be brief.")
        assert chat("Weather?") == "Rain."
        assert chat.ask(["And tomorrow?"] * 2) == ["Rain."] * 2
    assert [m["role"] for m in server.bodies[0]["messages"]] == ["system", "user"]
