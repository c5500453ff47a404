"""Completions, responses, messages: the official clients drive them, streamed is not streamed."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import serving
from serving import CALL, SayingEngine, client_of, events, post, serve, tool, user

from swift.chat.render import Renderer

SAID = {
    "text": "The capital is Paris.",
    "thinking": "<think>\nLet me see.\n</think>\n\nParis, of course.",
    "calls": "Wait." + CALL % ("look", '{"at": "Paris"}') + CALL % ("find", '{"n": [1]}'),
    "call": "<think>\nTools.\n</think>\n\n" + CALL % ("look", "{}"),
    "nothing": "",
    "stopped": "one two STOP three",
    "cut": "word " * 100,
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


def clients(app: Any) -> tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]:
    inside = httpx2.AsyncClient(transport=httpx2.ASGITransport(app, raise_app_exceptions=False))
    return (
        openai.AsyncOpenAI(
            api_key="none", base_url="http://swift/v1", http_client=client_of(app), max_retries=0
        ),
        anthropic.AsyncAnthropic(
            api_key="none", base_url="http://swift", http_client=inside, max_retries=0
        ),
    )


def plain(value: Any) -> Any:
    """A model of a client without what differs between two answers."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True, warnings=False)
    if isinstance(value, dict):
        return {
            k: plain(v)
            for k, v in value.items()
            if k not in ("id", "call_id", "created", "created_at", "item_id", "parsed_arguments")
        }
    return [plain(one) for one in value] if isinstance(value, list) else value


LOOK = {"name": "look", "input_schema": {"type": "object"}}
FIND = {"name": "find", "input_schema": {"type": "object"}}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("size", [1, 4])
def test_messages_streamed_are_not_streamed(renderer: Renderer, said: str, size: int) -> None:
    app = serve(SayingEngine(renderer, SAID[said], size=size), renderer)
    asked: Any = {
        "model": "tiny", "max_tokens": 150, "messages": user("Hello"), "tools": [LOOK, FIND],
        "stop_sequences": ["STOP"], "system": "Be brief.",
    }  # fmt: skip

    async def talk() -> tuple[Any, Any]:
        _, client = clients(app)
        apart = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            return apart, await stream.get_final_message()

    apart, streamed = asyncio.run(talk())
    assert plain(apart) == plain(streamed)
    reasons = {"calls": "tool_use", "call": "tool_use", "stopped": "stop_sequence",
               "cut": "max_tokens"}  # fmt: skip
    assert apart.stop_reason == reasons.get(said, "end_turn")
    assert apart.stop_sequence == ("STOP" if said == "stopped" else None)
    kinds = [block.type for block in apart.content]
    assert kinds == {
        "thinking": ["thinking", "text"], "calls": ["text", "tool_use", "tool_use"],
        "call": ["thinking", "tool_use"], "nothing": [],
    }.get(said, ["text"])  # fmt: skip


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("size", [1, 4])
def test_responses_streamed_are_not_streamed(renderer: Renderer, said: str, size: int) -> None:
    app = serve(SayingEngine(renderer, SAID[said], size=size), renderer)
    tools = [
        {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False}
        for name in ("look", "find")
    ]
    asked: Any = {
        "model": "tiny", "max_output_tokens": 150, "input": "Hello", "tools": tools,
        "instructions": "Be brief.",
    }  # fmt: skip

    async def talk() -> tuple[Any, Any, list[Any]]:
        client, _ = clients(app)
        apart = await client.responses.create(**asked)
        seen = [event async for event in await client.responses.create(**asked, stream=True)]
        async with client.responses.stream(**asked) as stream:
            async for _ in stream:  # the client puts it together itself, and checks the order
                pass
        return apart, seen[-1].response, seen

    apart, streamed, seen = asyncio.run(talk())
    assert plain(apart) == plain(streamed)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert [event.type for event in seen[:2]] == ["response.created", "response.in_progress"]
    assert apart.status == ("incomplete" if said == "cut" else "completed")
    done = [event.item for event in seen if event.type == "response.output_item.done"]
    assert plain(done) == plain(apart.output)
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == apart.output_text


@pytest.mark.parametrize("said", ["text", "stopped", "nothing", "cut"])
@pytest.mark.parametrize("echo", [True, False])
def test_completions_streamed_are_not_streamed(renderer: Renderer, said: str, echo: bool) -> None:
    app = serve(SayingEngine(renderer, SAID[said], size=3), renderer)
    asked: Any = {
        "model": "tiny", "prompt": ["Once", "Twice"], "n": 2, "stop": ["STOP", "x"], "echo": echo,
        "max_tokens": 150, **({} if echo else {"logprobs": 2}),
    }  # fmt: skip

    async def talk() -> tuple[Any, list[Any]]:
        client, _ = clients(app)
        apart = await client.completions.create(**asked)
        options = {"include_usage": True}
        stream = await client.completions.create(**asked, stream=True, stream_options=options)
        return apart, [chunk async for chunk in stream]

    apart, chunks = asyncio.run(talk())
    assert plain(chunks[-1].usage) == plain(apart.usage)
    for choice in apart.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        assert choice.text.startswith(("Once", "Twice")[choice.index // 2] if echo else "")
        if not echo:
            assert choice.logprobs is not None
            for name in ("tokens", "token_logprobs", "text_offset"):
                joined = [v for c in mine for v in getattr(c.logprobs, name)]
                assert joined == getattr(choice.logprobs, name)
            assert "".join(choice.logprobs.tokens or ()) == choice.text


def test_a_prompt_as_text_or_as_ids_is_the_same(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer)
    ids = renderer.tokenizer.encode("Once upon", specials=True).ids
    for prompt in ("Once upon", ids, ["Once upon"], [ids, ids]):
        assert post(app, "/v1/completions", {"prompt": prompt}).status_code == 200
    assert [request.tokens for request in engine.seen] == [ids] * 5
    for wrong in ([], [[]], [""], [400_000], ["a", [1]], [-1]):
        assert post(app, "/v1/completions", {"prompt": wrong}).status_code == 400


def test_a_whole_round_with_a_tool_means_the_same_in_all_protocols(renderer: Renderer) -> None:
    """What each protocol writes differently reaches the model as the same tokens."""
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer)
    parameters = {"type": "object", "properties": {"at": {"type": "string"}}}
    offered = tool("look", at={"type": "string"})
    arguments = '{"at": "Paris"}'
    chat = [
        {"role": "system", "content": "Be brief."},
        *user("Where?"),
        {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "Found."},
        *user([{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]),
    ]  # fmt: skip
    messages = [
        *user("Where?"),
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Wait."},
            {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "Paris"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": "Found."},
            {"type": "text", "text": "And "}, {"type": "text", "text": "now?"},
        ]},
    ]  # fmt: skip
    items = [
        *user("Where?"),
        {"type": "reasoning", "summary": [], "content": [
            {"type": "reasoning_text", "text": "Hm."}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c1", "output": "Found."},
        {"role": "user", "content": [
            {"type": "input_text", "text": "And "}, {"type": "input_text", "text": "now?"}]},
    ]  # fmt: skip
    bodies = {
        "/v1/chat/completions": {"messages": chat, "tools": [offered]},
        "/v1/messages": {
            "messages": messages, "system": "Be brief.", "max_tokens": 9,
            "tools": [{"name": "look", "input_schema": parameters}],
        },
        "/v1/responses": {
            "input": items, "instructions": "Be brief.",
            "tools": [{"type": "function", "name": "look", "parameters": parameters}],
        },
    }  # fmt: skip
    for path, body in bodies.items():
        done = post(app, path, body)
        assert done.status_code == 200, done.text
    first, *others = (request.tokens for request in engine.seen)
    assert others == [first, first]
    text = renderer.tokenizer.decode(first, keep_special=True)
    for piece in ("Be brief.", "<think>\nHm.\n</think>\n\nWait.", '"Paris"', "Found.", "And now?"):
        assert piece in text


def test_an_answer_that_is_begun_goes_on(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, " and well.")
    app = serve(engine, renderer)
    messages = [*user("How?"), {"role": "assistant", "content": "Slowly"}]
    done = post(app, "/v1/messages", {"messages": messages, "max_tokens": 50}).json()
    assert done["content"] == [{"type": "text", "text": " and well."}]
    assert renderer.tokenizer.decode(engine.seen[0].tokens).endswith("assistant\nSlowly")


def test_count_tokens_is_what_a_message_takes(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer, system="Be brief.")

    async def talk() -> tuple[int, int]:
        _, client = clients(app)
        asked: Any = {"model": "tiny", "messages": user("Hello there"), "tools": [LOOK]}
        count = await client.messages.count_tokens(**asked)
        done = await client.messages.create(**asked, max_tokens=5)
        return count.input_tokens, done.usage.input_tokens

    counted, taken = asyncio.run(talk())
    assert counted == taken > 10


def test_tokens_there_and_back(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    text = "Swifts fly <|im_end|> é €"
    done = post(app, "/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert done["tokens"] == renderer.tokenizer.encode(text, specials=True).ids
    assert done["count"] == len(done["tokens"]) == len(done["token_strs"])
    assert done["max_model_len"] == 512
    back = post(app, "/detokenize", {"tokens": done["tokens"]}).json()
    assert back == {"prompt": text}
    asked = post(app, "/tokenize", {"messages": user("Hi")}).json()["tokens"]
    from swift.chat.message import Message

    assert asked == renderer.prompt([Message("user", "Hi")])
    assert post(app, "/detokenize", {"tokens": [400_000]}).status_code == 400
    assert post(app, "/tokenize", {}).status_code == 400


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/completions"])
def test_an_engine_that_fails_in_the_middle_of_a_stream(renderer: Renderer, path: str) -> None:
    engine = SayingEngine(renderer, "one two three four")
    app = serve(engine, renderer)
    body = {
        "/v1/messages": {"messages": user("a"), "max_tokens": 9},
        "/v1/responses": {"input": "a"},
        "/v1/completions": {"prompt": "a"},
    }[path]
    engine.fail_at = 2
    seen = [event for event in events(post(app, path, {**body, "stream": True})) if event]
    last = seen[-1]
    if path == "/v1/responses":
        assert last["type"] == "response.failed" and last["response"]["error"]["message"]
    else:
        assert "engine failed" in last["error"]["message"]
    engine.fail_at = None
    assert post(app, path, body).status_code == 200
    assert engine.live == 0


def test_errors_have_the_shape_of_their_protocol(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)

    async def talk() -> None:
        first, second = clients(app)
        with pytest.raises(anthropic.BadRequestError, match="temprature"):
            await second.messages.create(
                model="tiny",
                max_tokens=5,
                messages=user("a"),
                extra_body={"temprature": 1},  # type: ignore[arg-type]
            )
        with pytest.raises(anthropic.NotFoundError):
            await second.messages.create(model="x", max_tokens=5, messages=user("a"))  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            await first.responses.create(model="tiny", input="a", previous_response_id="resp_1")
        with pytest.raises(openai.BadRequestError, match="store"):
            await first.responses.create(model="tiny", input="a", store=True)

    asyncio.run(talk())
    done = post(app, "/v1/messages", {"messages": []})
    assert done.json()["type"] == "error"
    assert done.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://169.254.169.254/", "/etc/passwd"])
def test_no_protocol_reads_an_address_or_a_file(renderer: Renderer, url: str) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    bodies: dict[str, Any] = {
        "/v1/messages": {"max_tokens": 5, "messages": user([
            {"type": "image", "source": {"type": "url", "url": url}}])},
        "/v1/responses": {"input": user([{"type": "input_image", "image_url": url}])},
    }  # fmt: skip
    for path, body in bodies.items():
        done = post(app, path, body)
        assert done.status_code == 400 and "data:" in done.json()["error"]["message"]
    sneaky = base64.b64encode(b"x").decode()
    source = {"type": "base64", "media_type": "image/png;base64,AAAA,", "data": sneaky}
    body = {"max_tokens": 5, "messages": user([{"type": "image", "source": source}])}
    assert post(app, "/v1/messages", body).status_code == 400


def test_thinking_is_switched_in_every_protocol(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer)
    off = "<think>\n\n</think>\n\n"
    for path, body in (
        ("/v1/messages",
         {"messages": user("a"), "max_tokens": 9, "thinking": {"type": "disabled"}}),
        ("/v1/responses", {"input": "a", "reasoning": {"effort": "none"}}),
        ("/v1/chat/completions", {"messages": user("a"), "reasoning_effort": "none"}),
        ("/v1/chat/completions",
         {"messages": user("a"), "chat_template_kwargs": {"enable_thinking": False}}),
    ):  # fmt: skip
        assert post(app, path, body).status_code == 200
        assert renderer.tokenizer.decode(engine.seen[-1].tokens).endswith(off)
    done = post(app, "/v1/responses", {"input": "a", "reasoning": {"effort": "high"}})
    assert done.status_code == 400 and "reasoning_effort" in done.json()["error"]["message"]


def test_the_document_of_the_interface_names_every_field(renderer: Renderer) -> None:
    document = serve(SayingEngine(renderer, "x"), renderer).openapi()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert "max_completion_tokens" in json.dumps(schema)
