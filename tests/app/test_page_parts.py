"""The page without a browser: events -> replies, conversations -> requests, rows and messages."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from swift.app.acts import Acts
from swift.app.client import Api, said
from swift.app.look import arguments, fenced, inert, plain, shown, told
from swift.app.reply import Call, Reply, grown
from swift.app.talk import (
    Lane,
    Question,
    Turn,
    Wish,
    arranged,
    body_of,
    messages_of,
    row_of,
    tools_of,
    wish_of,
)
from swift.app.texts import CHINESE, ENGLISH, LANGUAGES
from swift.chat.message import Conversation
from swift.data.formats.form import formats, understand
from swift.errors import DataError, ServerError
from swift.serve.openai import Request

WHOLE = Reply("m", id="chatcmpl-1", content="Hi.", state="whole", finish="stop")


def delta(**said: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": said, "finish_reason": None}]}


def lane(*turns: tuple[str, Reply], model: str = "m") -> Lane:
    return Lane(model, tuple(Turn(Question(text), reply) for text, reply in turns))


# events -> replies


def test_a_reply_grows_by_what_comes() -> None:
    reply = Reply("m")
    events = [
        delta(role="assistant", content=""),
        delta(reasoning_content="Hm"),
        delta(reasoning="m."),  # vLLM's name
        delta(content="a"),
        delta(content="b"),
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}},
    ]
    for second, event in enumerate(events):
        reply = grown(reply, event, float(second))
    assert (reply.id, reply.thinking, reply.content) == ("chatcmpl-1", "Hmm.", "ab")
    assert (reply.finish, reply.prompt, reply.size) == ("stop", 3, 9)
    assert (reply.first_s, reply.took_s) == (1.0, 4.0)
    assert reply.rate == pytest.approx(8 / 3)


def test_calls_come_whole_or_bit_by_bit() -> None:
    whole = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a": 1}'}}
    reply = grown(Reply("m"), delta(tool_calls=[whole]), 0.0)
    for part in (
        {"index": 1, "id": "c2", "function": {"name": "find", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"b"'}},
        {"index": 1, "function": {"arguments": ": 2}"}},
    ):
        reply = grown(reply, delta(tool_calls=[part]), 0.0)
    assert reply.calls == (Call("c1", "look", '{"a": 1}'), Call("c2", "find", '{"b": 2}'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"error": {"message": "too long", "type": "x"}}', "too long"),
        ('{"error": "too long"}', "too long"),
        ('{"object": "error", "message": "too long"}', "too long"),
        ('{"detail": "too long"}', "too long"),
        ("<html>502</html>", "<html>502</html>"),
    ],
)
def test_an_error_is_told_in_the_servers_words(text: str, words: str) -> None:
    assert said(text) == words


# conversations -> requests


def test_what_is_sent_is_what_the_server_takes(tmp_path: Path) -> None:
    picture, sound, film = (tmp_path / name for name in ("a.png", "b.wav", "c.mp4"))
    for file in (picture, sound, film):
        file.write_bytes(file.name.encode())
    files = (str(picture), str(sound), str(film))
    talk = Lane("m", (Turn(Question("Look", files), Reply("m")),))
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    wish = Wish(
        "Be brief.", json.dumps([tool]), False, ("END",),
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 7, "seed": None,
         "repetition_penalty": 1.1},
    )  # fmt: skip
    body = body_of(talk, wish)
    Request.model_validate_json(json.dumps(body))  # no field is unknown, no type is wrong
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    image, heard, seen, text = body["messages"][1]["content"]
    data = base64.b64encode(b"a.png").decode()
    assert image["image_url"]["url"] == f"data:image/png;base64,{data}"
    assert heard["input_audio"]["format"] == "wav"
    assert seen["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert text == {"type": "text", "text": "Look"}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["stop"] == ["END"] and body["top_k"] == 5 and "seed" not in body


def test_nothing_typed_is_left_to_the_server() -> None:
    wish = wish_of("", "", "", "", {"temperature": " ", "seed": ""})
    body = body_of(lane(("Hi", Reply("m"))), wish)
    assert set(body) == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize("name", ["temperature", "seed"])
def test_a_number_that_is_none_is_said(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: 'warm' is no"):
        wish_of("", "", "", "", {name: "warm"})


def test_questions_without_an_answer_are_left_out_of_what_follows() -> None:
    failed = replace(Reply("m"), state="failed", error="429: later")
    part = replace(WHOLE, content="Par", state="stopped")
    talk = lane(("1", failed), ("2", part), ("3", failed), ("4", Reply("m")))
    assert [one["content"] for one in messages_of(talk)] == ["2", "Par", "4"]
    row = row_of(talk, Wish())
    assert row is not None and [one["content"] for one in row["messages"]] == ["2", "Par"]
    assert row_of(lane(("1", failed)), Wish()) is None


CALLED = replace(
    WHOLE, content="", thinking="Hm.", calls=(Call("c1", "a", "{}"), Call("c2", "b", '{"x": 1}'))
)


def test_what_follows_calls_is_what_the_tools_answered() -> None:
    messages = messages_of(lane(("Ask", CALLED), ("one\n---\ntwo\nmore", Reply("m"))))
    TypeAdapter(list[dict[str, Any]]).validate_python(messages)
    assert messages[1]["reasoning_content"] == "Hm."
    assert [one.get("tool_call_id") for one in messages] == [None, None, "c1", "c2"]
    assert [one["content"] for one in messages[2:]] == ["one", "two\nmore"]
    with pytest.raises(DataError, match="2 calls need 2 results"):
        messages_of(lane(("Ask", CALLED), ("one", Reply("m"))))


def test_a_row_is_read_as_it_was_meant(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    talk = Lane("m", (Turn(Question("Look", (str(picture),)), CALLED),))
    talk = replace(talk, turns=(*talk.turns, Turn(Question("1\n---\n2"), WHOLE)))
    tools = [{"type": "function", "function": {"name": name}} for name in "ab"]
    row = row_of(talk, Wish("Be brief.", json.dumps(tools)))
    assert row is not None
    meaning = understand(json.loads(json.dumps(row)), formats("chat"))
    assert isinstance(meaning, Conversation)
    roles = [message.role for message in meaning.messages]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant"]
    (medium,) = meaning.media
    assert medium.kind == "image" and str(medium.source).startswith("data:image/png;base64,")
    assert [dict(call.arguments) for call in meaning.messages[2].tool_calls] == [{}, {"x": 1}]
    assert meaning.messages[2].thinking == "Hm." and len(meaning.tools) == 2


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[" * 100_000])
def test_tools_that_are_none_are_said(text: str) -> None:
    with pytest.raises(DataError, match="the tools"):
        tools_of(text)


def test_lanes_come_and_go_with_the_models() -> None:
    a = lane(("Hi", WHOLE), model="a")
    b = lane(("Hi", replace(WHOLE, content="Ho.")), model="b")
    assert arranged((a, b), ["b"]) == (b,)
    assert arranged((a, b), ["b", "a"]) == (b, a)
    assert arranged((a, b), ["c", "b"]) == (replace(a, model="c"), b)


# conversations -> what is shown

MARKUP = st.text(st.sampled_from('<>/!?ab`~ \n\\-*_[]()="&;#|1.') | st.characters(), max_size=80)


@given(MARKUP)
@example("<script>x</script>")
@example("```\n<b>\n````\n<b>")
@example("```a`b\n<b>")
@example("~~~\n```\n<b>\n~~~\n<b>")
@example("- ```\n<b>\n```")
@example("a `<b>` c <!-- d --> <?php ?> <![CDATA[ ]]>")
def test_no_html_begins_anywhere(text: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    tokens = [t for token in markdown.parse(inert(text)) for t in (token, *(token.children or ()))]
    assert not [token for token in tokens if token.type.startswith("html_")]
    if "\u2060" not in text:
        assert plain(inert(text)) == text


def test_code_stays_as_it_is() -> None:
    text = "```html\n<b>x</b>\n```"
    assert inert(text) == text
    assert fenced("a ```` b") == "`````\na ```` b\n`````"


def test_every_shown_message_has_its_place() -> None:
    good = replace(CALLED, content="Wait.", good=True)
    bad = replace(WHOLE, state="failed", error="500: no", good=False)
    empty = replace(WHOLE, content="", good=None)
    talk = lane(("1", good), ("2", bad), ("3", empty), ("4", Reply("m")))
    found = shown(talk, ENGLISH)
    assert [(place.turn, place.part) for place in found.places] == [
        (0, "question"), (0, "thinking"), (0, "answer"), (0, "call"), (0, "call"),
        (1, "question"), (1, "answer"), (1, "error"),
        (2, "question"), (2, "note"), (3, "question"), (3, "answer"),
    ]  # fmt: skip
    assert found.thumbs == ["Like"] * 4 + ["Dislike"] * 2 + [None, None]
    thinking, call = found.messages[1], found.messages[4]
    assert thinking["metadata"] == {"title": "Thinking", "status": "done"}
    assert (
        call["content"][0]["text"] == arguments(CALLED.calls[1]) == '```json\n{\n  "x": 1\n}\n```'
    )
    assert "500: no" in found.messages[7]["content"][0]["text"]


def test_without_streaming_an_answer_is_shown_once_it_is_whole() -> None:
    talk = lane(("1", replace(WHOLE, state="open")))
    half, whole = (shown(talk, ENGLISH, whole_only=only) for only in (True, False))
    assert half.messages[-1]["content"][0]["text"] == "\u2026"
    assert whole.messages[-1]["content"][0]["text"] == "Hi."


def test_what_is_told_of_an_answer() -> None:
    reply = replace(WHOLE, prompt=3, size=11, first_s=0.5, took_s=2.5, finish="length")
    words = told(reply, ENGLISH)
    assert words == "3 + 11 tokens · 5.0 tokens/s · first after 0.50 s · cut at the most tokens"
    assert told(Reply("m"), ENGLISH) == ""


def test_both_languages_say_everything() -> None:
    assert set(LANGUAGES) == {"en", "zh"}
    for field in fields(ENGLISH):
        ours, theirs = getattr(ENGLISH, field.name), getattr(CHINESE, field.name)
        marks = [{part for part in text.split() if "{" in part} for text in (ours, theirs)]
        assert ours and theirs and len(marks[0]) == len(marks[1]), field.name


# acts, over a server that is none


class Script(Api):
    """Gives what a test wants, by the name of the model."""

    pace_s = 0.0
    judged: list[tuple[str, bool | None, str | None]] = []  # noqa: RUF012

    async def events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        for word in body["model"].split("-"):
            if word == "fails":
                raise ServerError("429: too many (again in 3 s)")
            yield delta(content=word)
            await asyncio.sleep(self.pace_s)

    async def judge(
        self, id: str, *, good: bool | None = None, correction: str | None = None
    ) -> None:
        self.judged.append((id, good, correction))


async def asked(acts: Acts, *models: str) -> tuple[Lane, ...]:
    lanes = tuple(Lane(model) for model in models)
    growing = acts.ask("s", lanes, models, Question("Hi"), Wish())
    await growing.pause(5)
    growing.shown = True
    return growing.ended()


def acts_of(pace_s: float = 0.0, **changes: Any) -> Acts:
    api = Script("http://nowhere/v1")
    object.__setattr__(api, "pace_s", pace_s)
    return Acts(api, ENGLISH, **{"records": True, "takes": ("image",), **changes})


def test_an_error_of_one_lane_leaves_the_others() -> None:
    ended = asyncio.run(asked(acts_of(), "a-b", "c-fails", "d"))
    replies = [one.turns[-1].reply for one in ended]
    assert [reply.content for reply in replies] == ["ab", "c", "d"]
    assert [reply.state for reply in replies] == ["whole", "failed", "whole"]
    assert replies[1].error == "429: too many (again in 3 s)"


def test_what_is_stopped_keeps_what_was_said() -> None:
    async def stop() -> None:
        acts = acts_of(pace_s=10)
        growing = acts.ask("s", (Lane("a-b"),), ["a-b"], Question("Hi"), Wish())
        await growing.pause(0.05)
        assert acts.busy("s") and not acts.busy("another")
        with pytest.raises(DataError, match="stop it first"):
            acts.ask("s", (Lane("a"),), ["a"], Question("Hi"), Wish())
        acts.stop("s")
        await growing.pause(5)
        (ended,) = growing.ended()
        assert (ended.turns[0].reply.content, ended.turns[0].reply.state) == ("a", "stopped")
        growing.shown = True
        assert await acts.anew("s", (ended,)) == (Lane("a-b"),)
        acts.leave("s")
        assert acts.running == {}

    asyncio.run(stop())


def test_a_question_is_asked_anew_of_all_and_an_answer_corrected_in_one() -> None:
    async def change() -> None:
        acts = acts_of()
        lanes = await asked(acts, "a", "b")
        growing = acts.anew_from("s", lanes, 1, 0, "Ho", Wish())
        await growing.pause(5)
        lanes = growing.ended()
        assert [one.turns[0].question.text for one in lanes] == ["Ho", "Ho"]
        after, word = await acts.correct(lanes, 1, 0, "c")
        assert [one.turns[0].reply.content for one in after] == ["a", "c"]
        assert word == ENGLISH.corrected
        after, word = await acts.judge(after, 0, 0, False)
        assert after[0].turns[0].reply.good is False and word == ENGLISH.kept
        assert Script.judged == [("chatcmpl-1", None, "c"), ("chatcmpl-1", False, None)]
        silent = replace(acts, records=False)
        _, word = await silent.correct(lanes, 0, 0, "d")
        assert word == ENGLISH.changed and len(Script.judged) == 2

    asyncio.run(change())


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (Question("  "), "Say something"),
        (Question("a", ("b.txt",)), "b.txt: is no image"),
        (Question("a", ("b.mp4",)), "b.mp4: this model takes image"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(question: Question, why: str) -> None:
    with pytest.raises(DataError, match=why):
        acts_of().ask("s", (Lane("a"),), ["a"], question, Wish())
