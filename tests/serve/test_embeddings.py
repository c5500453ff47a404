"""Vectors of texts: OpenAI's client gets those of a plain forward pass."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import serving
import torch
from peft import LoraConfig, get_peft_model
from serving import SayingEngine, client_of, post, serve

import tiny
from swift.chat.load import load_renderer, load_tokenizer
from swift.errors import ConfigError
from swift.infer.backends.embed import pooling_of
from swift.infer.backends.transformers import TransformersEngine
from swift.models.load import load_model

TEXTS = ["a swift", "a", "Swifts sleep while they fly, so they say."]
FLAGS = ("cls_token", "mean_tokens", "lasttoken", "max_tokens")


def engine_of(checkpoint: Path) -> TransformersEngine:
    return TransformersEngine(load_model(checkpoint, torch.float32), load_tokenizer(checkpoint))


@pytest.fixture(scope="module")
def app(checkpoint: Path) -> Any:
    return serve(engine_of(checkpoint), load_renderer(checkpoint))


def plain(
    checkpoint: Path, ids: list[int], pool: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    with torch.no_grad():
        model: Any = load_model(checkpoint, torch.float32)
        states = model.model(torch.tensor([ids])).last_hidden_state[0]
    return torch.nn.functional.normalize(pool(states), dim=-1)


def create(app: Any, **body: Any) -> openai.types.CreateEmbeddingResponse:
    async def ask() -> openai.types.CreateEmbeddingResponse:
        async with client_of(app) as http:
            client = openai.AsyncOpenAI(
                api_key="none", base_url="http://swift/v1", http_client=http, max_retries=0
            )
            return await client.embeddings.create(model="tiny", **body)

    return asyncio.run(ask())


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_are_those_of_a_plain_forward_pass(
    app: Any, checkpoint: Path, form: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(checkpoint)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    found = create(app, input=TEXTS, **form)
    assert [one.index for one in found.data] == [0, 1, 2]
    assert found.usage.prompt_tokens == found.usage.total_tokens == sum(map(len, ids))
    for one, tokens in zip(found.data, ids, strict=True):
        vector: Any = one.embedding
        if isinstance(vector, str):  # asked for by name, the client leaves it as it is
            vector = torch.frombuffer(bytearray(base64.b64decode(vector)), dtype=torch.float32)
        wanted = plain(checkpoint, tokens, lambda states: states[-1])
        torch.testing.assert_close(torch.as_tensor(vector), wanted, rtol=0, atol=2e-6)


def test_tokens_are_as_good_as_texts(app: Any, checkpoint: Path) -> None:
    ids = [load_tokenizer(checkpoint)(text)["input_ids"] for text in TEXTS]
    wanted = [one.embedding for one in create(app, input=TEXTS).data]
    assert [one.embedding for one in create(app, input=ids).data] == wanted
    alone = create(app, input=ids[0]).data[0].embedding
    assert alone == create(app, input=TEXTS[0]).data[0].embedding
    assert alone == pytest.approx(wanted[0], abs=2e-6)


def test_more_texts_than_one_pass_holds(app: Any) -> None:
    many = create(app, input=[f"text {i}" * (1 + i % 3) for i in range(37)]).data
    for i in (0, 15, 16, 36):
        alone = create(app, input=f"text {i}" * (1 + i % 3)).data[0].embedding
        assert many[i].embedding == pytest.approx(alone, abs=2e-6)


@pytest.mark.parametrize(
    ("flag", "pool"),
    [
        ("mean_tokens", lambda states: states.mean(0)),
        ("lasttoken", lambda states: states[-1]),
        ("cls_token", lambda states: states[0]),
    ],
)
def test_a_checkpoint_says_how_tokens_are_pooled(
    checkpoint: Path, tmp_path: Path, flag: str, pool: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    write_pooling(folder, {f"pooling_mode_{name}": name == flag for name in FLAGS})
    found = engine_of(folder).embed([[5, 6, 7, 8], [9]])
    for vector, ids in zip(found, [[5, 6, 7, 8], [9]], strict=True):
        wanted = plain(checkpoint, ids, pool)
        torch.testing.assert_close(torch.tensor(vector), wanted, rtol=0, atol=2e-6)


def write_pooling(folder: Path, said: dict[str, Any]) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))


def test_words_of_pooling(tmp_path: Path) -> None:
    assert pooling_of(tmp_path) == "last"
    for word, meant in (("mean", "mean"), ("lasttoken", "last"), ("cls", "first")):
        write_pooling(tmp_path, {"pooling_mode": word, "include_prompt": True})
        assert pooling_of(tmp_path) == meant
    for said in ({"pooling_mode": "max"}, {"pooling_mode_max_tokens": True}, {},
                 {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}):  # fmt: skip
        write_pooling(tmp_path, said)
        with pytest.raises(ConfigError, match="pooling by"):
            pooling_of(tmp_path)


def test_an_adapter_has_vectors_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    model: Any = load_model(checkpoint, torch.float32)
    peft: Any = get_peft_model(model, settings).eval()
    peft.save_pretrained(tmp_path)
    engine, ids = engine_of(checkpoint), [5, 6, 7]
    before = engine.embed([ids])
    engine.load_adapter("a", str(tmp_path))
    with torch.no_grad():
        state = peft.get_base_model().model(torch.tensor([ids])).last_hidden_state[0, -1]
    wanted = torch.nn.functional.normalize(state, dim=-1)
    found = torch.tensor(engine.embed([[5, 6], ids], "a")[1])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.tensor(engine.embed([ids])), torch.tensor(before))
    assert not torch.allclose(found, torch.tensor(before[0]), atol=1e-2)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input: is empty"),
        ({"input": ["a", ""]}, r"input\[1\]: is empty"),
        ({"input": [5, 10**6]}, "not below"),
        ({"input": "word " * 600}, "the model's context holds"),
        ({"input": "a", "dimensions": 7}, "dimensions: this model's vectors have 48"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "truncate": True}, "truncate"),
    ],
)
def test_what_cannot_be_meant_is_refused(app: Any, body: dict[str, Any], why: str) -> None:
    done = post(app, "/v1/embeddings", body)
    assert done.status_code == 400
    assert re.search(why, done.json()["error"]["message"])


def test_other_names_and_engines_are_refused(app: Any) -> None:
    assert post(app, "/v1/embeddings", {"model": "other", "input": "a"}).status_code == 404
    renderer = serving.renderer_of()
    done = post(serve(SayingEngine(renderer, "x"), renderer), "/v1/embeddings", {"input": "a"})
    assert (done.status_code, done.json()["error"]["code"]) == (400, "unsupported")
    assert create(app, input="a", dimensions=48).data[0].embedding


def test_what_was_learned_as_turns_is_read_as_turns(checkpoint: Path) -> None:
    """As docs/tasks.md computes a vector with transformers."""
    app = serve(engine_of(checkpoint), load_renderer(checkpoint), turns=True, system="Be a bird.")
    said = [{"role": "system", "content": "Be a bird."}, {"role": "user", "content": "Who?"}]
    ids = tiny.make_tokenizer().apply_chat_template(
        said, add_generation_prompt=True, return_dict=False
    )
    found = post(app, "/v1/embeddings", {"input": ["Who?", "Else."]}).json()
    assert found["usage"]["prompt_tokens"] > len(ids)
    wanted = plain(checkpoint, ids, lambda states: states[-1])
    vector = torch.tensor(found["data"][0]["embedding"])
    torch.testing.assert_close(vector, wanted, rtol=0, atol=2e-6)
    [exact] = post(app, "/v1/embeddings", {"input": ids}).json()["data"]  # ids are as they are
    torch.testing.assert_close(torch.tensor(exact["embedding"]), wanted, rtol=0, atol=2e-6)
    refused = post(app, "/v1/embeddings", {"input": ""})
    assert refused.status_code == 400 and "is empty" in refused.text
