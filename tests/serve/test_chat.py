"""Chat completions: what is sent is what was said, streamed or not."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import serving
from serving import CALL, SayingEngine, chat, events, serve, tool, user

from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.render import Renderer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


def joined(found: list[Any]) -> dict[int, dict[str, Any]]:
    """The answers of a stream put together, as a client does it."""
    answers: dict[int, dict[str, Any]] = {}
    for event in found:
        for choice in (event or {}).get("choices", ()):
            one = answers.setdefault(
                choice["index"], {"content": "", "thinking": "", "calls": [], "logprobs": []}
            )
            delta = choice["delta"]
            one["content"] += delta.get("content") or ""
            one["thinking"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls", ()):
                assert call["index"] == len(one["calls"])
                one["calls"].append((call["function"]["name"], call["function"]["arguments"]))
            one["logprobs"] += (choice["logprobs"] or {}).get("content", [])
            one["finish"] = choice["finish_reason"]
    return answers


def whole(body: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The same of a body that was not streamed."""
    return {
        choice["index"]: {
            "content": choice["message"]["content"] or "",
            "thinking": choice["message"].get("reasoning_content", ""),
            "calls": [
                (call["function"]["name"], call["function"]["arguments"])
                for call in choice["message"].get("tool_calls", ())
            ],
            "logprobs": (choice["logprobs"] or {}).get("content", []),
            "finish": choice["finish_reason"],
        }
        for choice in body["choices"]
    }


SAID = [
    "The capital is Paris.",
    "<think>\nLet me see.\n</think>\n\nParis, of course.",
    "Wait." + CALL % ("look", '{"at": "Paris"}') + CALL % ("find", '{"n": [1, {"a": "é"}]}'),
    "<think>\nTools.\n</think>\n\n" + CALL % ("look", "{}"),
    "<tool_call> is only a word, <think too, and € 3 STO ST",
    "",
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_streamed_is_not_streamed(renderer: Renderer, said: str, size: int) -> None:
    app = serve(SayingEngine(renderer, said, size=size), renderer)
    asked = {"tools": [tool("look"), tool("find")], "logprobs": True, "top_logprobs": 2, "n": 2}
    asked["stop"] = ["STOP", "TO S"]
    apart = chat(app, **asked)
    assert apart.status_code == 200, apart.text
    stream = events(chat(app, **asked, stream=True))
    assert stream[-1] is None
    assert joined(stream) == whole(apart.json())


@pytest.mark.parametrize("said", SAID)
def test_what_is_sent_is_what_the_renderer_reads(renderer: Renderer, said: str) -> None:
    ids = renderer.tokenizer.encode(said).ids
    meant = renderer.parse(ids)
    app = serve(SayingEngine(renderer, said, size=2), renderer)
    answer = whole(chat(app, tools=[tool("look"), tool("find")]).json())[0]
    assert answer["content"] == meant.content
    assert answer["thinking"] == (meant.thinking or "")
    calls = [(name, json.loads(arguments)) for name, arguments in answer["calls"]]
    assert calls == [(call.name, dict(call.arguments)) for call in meant.tool_calls]
    assert answer["finish"] == ("tool_calls" if calls else "stop")


def _says(text: str, request: Request) -> str:
    return text


def test_stop_texts_are_cut_however_the_text_comes(renderer: Renderer) -> None:
    rng = random.Random(0)
    engine = SayingEngine(renderer, "")
    app = serve(engine, renderer)
    for _ in range(60):
        text = "".join(rng.choice("abc ") for _ in range(40))
        stops = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 4))) for _ in range(3)]
        ends = [(text.find(s) + len(s), -len(s), s) for s in stops if s in text]
        end = min(ends) if ends else None
        kept = text[: end[0] - len(end[2])] if end else text
        engine.say, engine.size = partial(_says, text), rng.randint(1, 5)
        stream = events(chat(app, stop=stops, stream=True))
        deltas = [c["delta"].get("content", "") for e in stream if e for c in e["choices"]]
        assert "".join(deltas) == kept
        assert engine.live == 0


def test_usage_counts_every_token(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "one two"), renderer)
    size = len(renderer.tokenizer.encode("one two").ids)
    body = chat(app, n=3).json()
    prompt = body["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 3 * (size + 1)  # the stop token is one too
    assert body["usage"]["total_tokens"] == prompt + 3 * (size + 1)
    assert prompt == len(renderer.prompt([_message("Hello")]))
    stream = events(chat(app, n=3, stream=True, stream_options={"include_usage": True}))
    assert stream[-2]["usage"] == body["usage"] and stream[-2]["choices"] == []
    assert all(event["usage"] is None for event in stream[:-2])


def _message(text: str) -> Any:
    from swift.chat.message import Message

    return Message("user", text)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": "a", "cache": 1}]}, "messages[0].user.cache",
         "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0]", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 17}, "n", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"model": "gpt-9"}, "model", "model_not_found"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs.bos_token",
         "unknown_parameter"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages",
         "unknown_parameter"),
        ({"chat_template_kwargs": {"enable_thinking": "x" * 99}},
         "chat_template_kwargs.enable_thinking", "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, None,
         "context_length_exceeded"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_by_name(
    renderer: Renderer, body: dict[str, Any], param: str, code: str
) -> None:
    app = serve(SayingEngine(renderer, "x"), renderer)
    done = chat(app, **body)
    assert done.status_code == (404 if code == "model_not_found" else 400)
    error = done.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code), error["message"]


def test_sampling_reaches_the_engine(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer, sampling=Sampling(64, temperature=0.5, top_k=7))
    asked = {
        "temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "presence_penalty": 1, "seed": 4, "n": 2,
        "frequency_penalty": -1, "repetition_penalty": 1.5, "logit_bias": {"5": 2}, "stop": "END",
        "max_completion_tokens": 9, "stop_token_ids": [7],
    }  # fmt: skip
    assert chat(app, **asked).status_code == 200
    first, second = (request.sampling for request in engine.seen)
    assert first == Sampling(
        9, 0.7, 0.9, 7, 0.1, 1.5, 1.0, -1.0, (2, 7), logit_bias={5: 2.0}, seed=4
    )
    assert second.seed == 5


def test_a_system_prompt_of_the_server_stands_where_there_is_none(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "x")
    app = serve(engine, renderer, system="Be brief.")
    chat(app)
    chat(app, messages=[{"role": "system", "content": "Be long."}, *user("Hello")])
    texts = [renderer.tokenizer.decode(request.tokens) for request in engine.seen]
    assert "Be brief." in texts[0]
    assert "Be brief." not in texts[1] and "Be long." in texts[1]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_are_told_unless_there_is_no_choice(renderer: Renderer, choice: str) -> None:
    engine = SayingEngine(renderer, CALL % ("look", "{}"))
    answer = chat(serve(engine, renderer), tools=[tool("look")], tool_choice=choice).json()
    told = "look" in renderer.tokenizer.decode(engine.seen[0].tokens)
    message = answer["choices"][0]["message"]
    assert told == bool(message.get("tool_calls")) == (choice == "auto")
    assert ("<tool_call>" in (message["content"] or "")) == (choice == "none")


def test_one_call_where_calls_are_not_parallel(renderer: Renderer) -> None:
    said = CALL % ("look", "{}") + CALL % ("look", '{"b": 1}') + "more"
    engine = SayingEngine(renderer, said, size=3)
    answer = chat(serve(engine, renderer), tools=[tool("look")], parallel_tool_calls=False).json()
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1
    assert engine.broken_off == 1  # the rest was never generated


def forced(request: Request) -> str:
    """What an engine with guides would be left to say."""
    guide = request.sampling.guide
    assert guide is not None
    return guide.value[1] if guide.kind == "choice" else '{"at": "Paris"}'


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "find"}}], ids=str
)
def test_a_call_is_forced_under_guides(renderer: Renderer, choice: Any) -> None:
    engine = SayingEngine(renderer, forced)
    tools = [tool("look"), tool("find", at={"type": "string"})]
    answer = chat(serve(engine, renderer), tools=tools, tool_choice=choice).json()["choices"][0]
    call = answer["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("find", {"at": "Paris"})
    assert answer["finish_reason"] == "tool_calls"
    last = engine.seen[-1]
    assert last.sampling.guide and last.sampling.guide.value["properties"] == {
        "at": {"type": "string"}
    }
    assert renderer.tokenizer.decode(last.tokens).endswith('{"name": "find", "arguments": ')
    assert len(engine.seen) == (2 if choice == "required" else 1)


def test_what_the_engine_cannot_is_refused_by_name(renderer: Renderer) -> None:
    from swift.infer.engine import Ability

    engine = SayingEngine(renderer, "x", lacks=[Ability.GUIDE, Ability.LOGPROBS])
    app = serve(engine, renderer)
    for body, word in (
        ({"response_format": {"type": "json_object"}}, "guided generation"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [tool("a")], "tool_choice": "required"}, "guided generation"),
    ):
        done = chat(app, **body)
        assert (done.status_code, done.json()["error"]["code"]) == (400, "unsupported_parameter")
        assert word in done.json()["error"]["message"]
    assert engine.seen == []


def test_a_form_of_the_answer_becomes_a_guide(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, '{"a": 1}')
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}
    body = chat(serve(engine, renderer), response_format=form).json()
    assert body["choices"][0]["message"]["content"] == '{"a": 1}'
    assert engine.seen[0].sampling.guide.value == schema  # type: ignore[union-attr]


def test_the_official_client(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, SAID[1]), renderer)

    async def talk() -> tuple[str, str]:
        client = openai.AsyncOpenAI(
            api_key="none", base_url="http://swift/v1", http_client=serving.client_of(app)
        )
        asked: Any = {"model": "tiny", "messages": user("Hello")}
        whole = await client.chat.completions.create(**asked)
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**asked, stream=True)
        ]
        assert [model.id async for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.BadRequestError, match="temprature"):
            await client.chat.completions.create(**asked, extra_body={"temprature": 1})
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**{**asked, "model": "other"})
        return whole.choices[0].message.content or "", "".join(pieces)

    apart, streamed = asyncio.run(talk())
    assert apart == streamed == "Paris, of course."


def test_a_real_model_answers_as_without_a_server(checkpoint: Path) -> None:
    import torch

    renderer = load_renderer(checkpoint)
    engine = TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))
    app = serve(engine, renderer)
    prompt = renderer.prompt([_message("Who are you?")])
    sampling = Sampling(12, stop_ids=tuple(renderer.stop_ids))
    meant = engine.generate([Request(prompt, sampling)])[0]
    asked = {"messages": user("Who are you?"), "max_tokens": 12}
    body = chat(app, **asked).json()
    assert body["choices"][0]["message"]["content"] == renderer.parse(meant.tokens).content
    assert body["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(meant.tokens),
        "total_tokens": len(prompt) + len(meant.tokens),
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert joined(events(chat(app, **asked, stream=True))) == whole(body)


def test_an_engine_that_fails_in_the_middle(renderer: Renderer) -> None:
    engine = SayingEngine(renderer, "one two three four")
    app = serve(engine, renderer)
    engine.fail_at = 2
    stream = events(chat(app, stream=True))
    assert stream[-2]["error"]["code"] == "engine" and "CUDA" not in str(stream[-2])
    assert chat(app).status_code == 500
    engine.fail_at = None
    assert chat(app).json()["choices"][0]["message"]["content"] == "one two three four"
    assert engine.live == 0
