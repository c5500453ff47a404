"""LangChain's ChatOpenAI and OpenAIEmbeddings drive the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import serving
import torch
from serving import CALL, SayingEngine, client_of, serve, user

from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.render import Renderer
from swift.infer.backends.transformers import TransformersEngine
from swift.models.load import load_model

langchain = pytest.importorskip("langchain_openai")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


def drive(app: Any, use: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
    """What ``use`` makes of a model of LangChain's over an application in this process."""

    async def run() -> Any:
        async with client_of(app) as client:
            kind = settings.pop("kind", langchain.ChatOpenAI)
            return await use(
                kind(
                    model="tiny",
                    base_url="http://swift/v1",
                    api_key="none",
                    max_retries=0,
                    http_async_client=client,
                    **settings,
                )
            )

    return asyncio.run(run())


def test_it_asks_and_hears(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "The capital is Paris.")
    app = serve(engine, renderer)
    said = drive(app, lambda m: m.ainvoke("Capital?"), temperature=0.3, max_tokens=50, seed=4)
    assert said.content == "The capital is Paris."
    assert said.response_metadata["finish_reason"] == "stop"
    assert said.usage_metadata["input_tokens"] == len(engine.seen[0].tokens)
    sampling = engine.seen[0].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.3, 50, 4)


def test_it_streams(renderer: Renderer) -> None:
    async def stream(model: Any) -> Any:
        return [chunk async for chunk in model.astream([("system", "Be short."), ("user", "Hi")])]

    app = serve(SayingEngine(renderer, "one two three"), renderer)
    chunks = drive(app, stream, stream_usage=True)
    assert "".join(chunk.content for chunk in chunks) == "one two three"
    assert len([chunk for chunk in chunks if chunk.content]) > 2
    assert sum((c.usage_metadata or {}).get("output_tokens", 0) for c in chunks) > 2


def test_it_calls_tools_and_tells_their_results(renderer: Renderer) -> None:
    said = "Wait." + CALL % ("look", '{"at": "Paris"}')
    engine = SayingEngine(renderer, lambda r: "Rain." if len(engine.seen) > 1 else said)
    place = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
    look = {"name": "look", "description": "Looks.", "parameters": place}

    async def talk(model: Any) -> Any:
        able = model.bind_tools([look])
        first = await able.ainvoke("Weather in Paris?")
        [call] = first.tool_calls
        told = {"role": "tool", "content": "wet", "tool_call_id": call["id"]}
        return call, await able.ainvoke([*user("Weather in Paris?"), first, told])

    call, last = drive(serve(engine, renderer), talk)
    assert (call["name"], call["args"]) == ("look", {"at": "Paris"})
    assert last.content == "Rain."
    assert "wet" in renderer.tokenizer.decode(engine.seen[1].tokens)


def test_it_gets_answers_of_a_form_and_vectors(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, torch.float32), load_tokenizer(checkpoint)
    engine = TransformersEngine(model, tokenizer)
    app = serve(engine, load_renderer(checkpoint))
    schema = {
        "title": "Answer", "type": "object", "properties": {"wet": {"type": "boolean"}},
        "required": ["wet"], "additionalProperties": False,
    }  # fmt: skip

    async def ask(model: Any) -> Any:
        form = model.with_structured_output(schema, method="json_schema", strict=True)
        return await form.ainvoke("Is water wet?")

    found = drive(app, ask, max_tokens=200, temperature=1, seed=3)
    assert set(found) == {"wet"} and json.dumps(found["wet"]) in ("true", "false")
    texts = ["a swift", "a swallow"]
    vectors = drive(
        app,
        lambda m: m.aembed_documents(texts),
        kind=langchain.OpenAIEmbeddings,
        check_embedding_ctx_length=False,  # else it sends the tokens of OpenAI's own tokenizer
    )
    meant = engine.embed([tokenizer(text)["input_ids"] for text in texts])
    for vector, wanted in zip(vectors, meant, strict=True):
        assert vector == pytest.approx(wanted, abs=2e-6)
    engine.close()
