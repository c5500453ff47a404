"""Streams are not streams: whatever is said, however it is cut, in every protocol."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import CALL, SayingEngine, chat, events, post, renderer_of, serve, tool, user
from test_chat import joined, whole
from test_protocols import clients, plain

from swift.chat.render import Renderer

renderer = cache(renderer_of)
PIECES = (
    "<think>\n", "\n</think>\n\n", "<think", "</thi", "Paris ", "é€🚀", "\n", " ", "STOP", "ST",
    CALL % ("look", '{"at": "Paris"}'), CALL % ("find", "{}"), CALL % ("look", '{"a": '),
    "\n<tool_call>\n", "\n</tool_call>", '{"name": "look", "arguments": ', "<|im_end|>", "\0",
    "TO S", "\ufffd",
)  # fmt: skip
SAID = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
RULES = settings(
    max_examples=60, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TOOLS = [tool("look"), tool("find")]


def told(said: str, size: int) -> Any:
    made: Renderer = renderer()
    return serve(SayingEngine(made, said, size=size), made)


@RULES
@given(
    SAID, st.integers(1, 9), st.lists(st.sampled_from(["STOP", "TO S", "P", "é"]), max_size=3),
    st.integers(1, 40), st.booleans(), st.booleans(),
)  # fmt: skip
def test_chat(
    said: str, size: int, stop: list[str], most: int, tools: bool, logprobs: bool
) -> None:
    app = told(said, size)
    asked: dict[str, Any] = {"stop": stop, "max_tokens": most, "n": 2, "logprobs": logprobs}
    asked |= {"tools": TOOLS} if tools else {}
    apart, stream = chat(app, **asked), events(chat(app, **asked, stream=True))
    assert apart.status_code == 200 and stream[-1] is None
    assert joined(stream) == whole(apart.json())


@RULES
@given(SAID, st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_completions(said: str, size: int, most: int, echo: bool) -> None:
    app = told(said, size)
    asked = {"prompt": "Hello", "max_tokens": most, "stop": ["STOP"], "echo": echo}
    [apart] = post(app, "/v1/completions", asked).json()["choices"]
    found = events(post(app, "/v1/completions", {**asked, "stream": True}))
    choices = [choice for event in found[:-1] for choice in event["choices"]]
    assert "".join(choice["text"] for choice in choices) == apart["text"]
    assert choices[-1]["finish_reason"] == apart["finish_reason"]


@RULES
@given(SAID, st.integers(1, 9), st.integers(1, 40))
def test_messages_and_responses(said: str, size: int, most: int) -> None:
    """The vendors' own clients put the streams together."""
    first, second = clients(told(said, size))
    offered = [{"name": "look", "input_schema": {"type": "object"}}]
    functions = [{"type": "function", "name": "look", "parameters": {}, "strict": False}]

    async def messages(client: Any) -> None:
        asked: Any = {"model": "tiny", "messages": user("a"), "max_tokens": most, "tools": offered}
        apart = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            assert plain(await stream.get_final_message()) == plain(apart)

    async def responses(client: openai.AsyncOpenAI) -> None:
        asked: Any = {"model": "tiny", "input": "a", "max_output_tokens": most, "tools": functions}
        apart = await client.responses.create(**asked)
        done = [event async for event in await client.responses.create(**asked, stream=True)][-1]
        assert plain(done.response) == plain(apart)

    async def both() -> None:
        await messages(second)
        await responses(first)

    asyncio.run(both())
