"""The service over the real engine: guides, forced calls, adapters by name, many at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving
import torch
from serving import chat, post, serve, tool, user

from swift.chat.load import load_renderer, load_tokenizer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model
from swift.serve.keys import Caller, Keys
from swift.serve.limits import Gate


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[TransformersEngine]:
    made = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(engine: TransformersEngine, checkpoint: Path) -> Any:
    return serve(engine, load_renderer(checkpoint))


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_has_the_form_that_was_asked_for(app: Any, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA}}
    done = chat(app, response_format=form, max_tokens=200, temperature=1, seed=3, stream=stream)
    if stream:
        found = [e for e in serving.events(done) if e]
        text = "".join(c["delta"].get("content", "") for e in found for c in e["choices"])
    else:
        text = done.json()["choices"][0]["message"]["content"]
    assert set(json.loads(text)) == {"a", "b"}


@pytest.mark.parametrize(
    ("guide", "fits"),
    [({"choice": ["red", "green"]}, {"red", "green"}), ({"regex": "[ab]{3}"}, None)],
    ids=["choice", "regex"],
)
def test_guides_of_other_kinds(app: Any, guide: dict[str, Any], fits: set[str] | None) -> None:
    done = chat(app, structured_outputs=guide, max_tokens=20).json()
    text = done["choices"][0]["message"]["content"]
    assert text in fits if fits else (len(text) == 3 and set(text) <= set("ab"))


def test_a_guide_that_is_none_is_the_clients_fault(app: Any) -> None:
    done = chat(app, structured_outputs={"regex": "["}, max_tokens=5)
    assert done.status_code == 400 and "guide" in done.json()["error"]["message"]


def test_calls_are_forced_with_arguments_of_the_tools_schema(
    engine: TransformersEngine,
) -> None:
    app = serve(engine, serving.renderer_of())
    look = tool("look", a={"type": "boolean"})
    look["function"]["parameters"] = SCHEMA
    for choice in ("required", {"type": "function", "function": {"name": "look"}}):
        done = chat(
            app, tools=[look, tool("find")], tool_choice=choice, max_tokens=100, temperature=1,
            seed=1,
        )  # fmt: skip
        answer = done.json()["choices"][0]
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] in ("look", "find")
        arguments = json.loads(call["function"]["arguments"])
        assert call["function"]["name"] == "find" or set(arguments) == {"a", "b"}
        assert answer["finish_reason"] == "tool_calls"


def test_many_at_once_are_each_answered_as_alone(app: Any, engine: TransformersEngine) -> None:
    bodies = [
        {"model": "tiny", "messages": user(f"Question {i}?"), "max_tokens": 6 + i, "logprobs": True}
        for i in range(8)
    ]

    async def all() -> list[Any]:
        async with serving.client_of(app) as client:
            return await asyncio.gather(
                *(client.post("/v1/chat/completions", json=body) for body in bodies)
            )

    together = asyncio.run(all())
    for body, done in zip(bodies, together, strict=True):
        alone = post(app, "/v1/chat/completions", body).json()["choices"]
        mine = done.json()["choices"]
        assert mine[0]["message"] == alone[0]["message"]
        for one, other in zip(
            mine[0]["logprobs"]["content"], alone[0]["logprobs"]["content"], strict=True
        ):
            assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters that change what the model says."""
    from peft import LoraConfig, get_peft_model

    made = {}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
        made[name] = tmp_path_factory.mktemp(name)
        peft: Any = get_peft_model(load_model(checkpoint, torch.float32), settings)
        peft.save_pretrained(made[name])
    return made


def test_adapters_are_loaded_used_and_unloaded_while_it_serves(
    checkpoint: Path, adapters: dict[str, Path]
) -> None:
    engine = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    renderer = load_renderer(checkpoint)
    keys = Keys({"key-admin": Caller("boss", admin=True), "key-other": Caller("b")}, Caller("-"))
    app = serve(engine, renderer, keys=keys)

    def send(path: str, body: Any, key: str = "key-admin") -> Any:
        return post(app, path, json.dumps(body).encode(), Authorization=f"Bearer {key}")

    def answer(model: str) -> Any:
        body = {"model": model, "messages": user("Who are you?"), "max_tokens": 8}
        return send("/v1/chat/completions", body, "key-other")

    load = {"lora_name": "a", "lora_path": str(adapters["a"])}
    assert send("/v1/load_lora_adapter", load, "key-other").status_code == 403
    assert answer("a").status_code == 404
    for name, folder in adapters.items():
        done = send("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        assert (done.status_code, done.json()["parent"]) == (200, "tiny"), done.text
    assert send("/v1/load_lora_adapter", load).status_code == 409
    missing = {"lora_name": "c", "lora_path": str(checkpoint)}
    assert send("/v1/load_lora_adapter", missing).status_code == 400
    from swift.chat.message import Message

    prompt = renderer.prompt([Message("user", "Who are you?")])
    sampling = Sampling(8, stop_ids=tuple(sorted(renderer.stop_ids)))
    said = {}
    for name in ("tiny", "a", "b"):
        request = Request(prompt, sampling, adapter=None if name == "tiny" else name)
        meant = renderer.parse(engine.generate([request])[0].tokens).content
        said[name] = answer(name).json()["choices"][0]["message"]["content"]
        assert said[name] == meant
    assert len(set(said.values())) == 3
    assert send("/v1/unload_lora_adapter", {"lora_name": "a"}).status_code == 200
    assert answer("a").status_code == 404
    assert answer("b").status_code == 200
    engine.close()


@pytest.mark.parametrize("places", [64, 16])
def test_64_clients_stream_from_two_adapters_in_turns(
    checkpoint: Path, adapters: dict[str, Path], places: int
) -> None:
    """Every answer is whole and that of its own adapter, in one batch or waiting for a place."""
    engine = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    app = serve(engine, load_renderer(checkpoint), gate=Gate(places, 64, 60))
    app.state.service.models.load_first({name: str(folder) for name, folder in adapters.items()})

    async def ask(client: Any, number: int) -> str:
        name, question = "ab"[number % 2], f"Question {number // 2}?"
        body = {"model": name, "messages": user(question), "max_tokens": 6, "stream": True}
        done = await client.post("/v1/chat/completions", json=body)
        found = [event for event in serving.events(done) if event]
        assert {event["model"] for event in found} == {name}
        assert [c["finish_reason"] for e in found for c in e["choices"]][-1] in ("stop", "length")
        return "".join(c["delta"].get("content") or "" for e in found for c in e["choices"])

    async def together() -> list[str]:
        async with serving.client_of(app) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(64)))

    async def in_turn() -> list[str]:
        async with serving.client_of(app) as client:
            return [await ask(client, number) for number in range(64)]

    found = asyncio.run(together())
    assert found == asyncio.run(in_turn())
    assert all(one != other for one, other in zip(found[::2], found[1::2], strict=True))
    engine.close()
