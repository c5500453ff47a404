"""``swift deploy`` in front of vLLM, as clients use it: chat, streams, adapters, schemas, calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model

from contracts.vllm_setups import seeing
from swift.chat.load import load_renderer, load_tokenizer
from swift.chat.message import Message
from swift.infer.backends.server import free_port
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model
from tiny import save_checkpoint

PYTHON = os.environ.get("SWIFT_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="SWIFT_VLLM_PYTHON names no Python that has vLLM"),
]
TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n# Tools\n<tools>' }}{% for t in tools %}"
    "{{ '\n' + t | tojson }}{% endfor %}{{ '\n</tools>\nAnswer with <tool_call>\n{\"name\": "
    '<name>, "arguments": <arguments>}\n</tool_call><|im_end|>\n\' }}{% endif %}'
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ '\n<tool_call>\n{\"name\": \"' + c['function']['name']"
    " + '\", \"arguments\": ' + c['function']['arguments'] | tojson + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"wet": {"type": "boolean"}},
    "required": ["wet"],
    "additionalProperties": False,
}
ASKED = [{"role": "user", "content": "Is water wet?"}]


@contextmanager
def deployed(*words: str) -> Iterator[httpx.Client]:
    port = free_port()
    command = [sys.executable, "-m", "swift", "deploy", "--port", str(port), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if line.startswith("serving "):
                break
        else:
            raise AssertionError(said)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose heads are of a size that vLLM has, and an adapter."""
    folder = tmp_path_factory.mktemp("served")
    save_checkpoint(folder / "model", seed=5, hidden_size=128, num_attention_heads=4)
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE)
    model = load_model(folder / "model", torch.float32)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter"


@pytest.fixture(scope="module")
def client(folders: tuple[Path, Path]) -> Iterator[httpx.Client]:
    model, adapter = folders
    with deployed(
        "--model", str(model), "--served_model_name", "m", "--torch_dtype", "float32",
        "--infer_backend", "vllm", "--engine_python", PYTHON, "--max_model_len", "512",
        "--vllm_enforce_eager", "true", "--vllm_max_num_seqs", "8",
        "--adapters", f"a={adapter}",
    ) as found:  # fmt: skip
        yield found


def chat(client: httpx.Client, **more: Any) -> Any:
    body = {"model": "m", "messages": ASKED, "max_tokens": 12, "temperature": 0, **more}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


def message(client: httpx.Client, **more: Any) -> Any:
    return chat(client, **more).json()["choices"][0]["message"]


def events(text: str) -> list[Any]:
    """Of a stream, without its end."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def own(model: Path, adapter: Path | None) -> str:
    """The same by the embedded engine."""
    renderer = load_renderer(model)
    engine = TransformersEngine(load_model(model, torch.float32), load_tokenizer(model))
    if adapter is not None:
        engine.load_adapter("a", str(adapter))
    sampling = Sampling(12, stop_ids=tuple(sorted(renderer.stop_ids)))
    prompt = renderer.prompt([Message("user", "Is water wet?")])
    request = Request(prompt, sampling, adapter="a" if adapter else None)
    found = engine.generate([request])[0]
    engine.close()
    return str(renderer.parse(found.tokens).content).removesuffix("\ufffd")  # half a character


def test_model_and_adapter_say_what_they_say_elsewhere(
    client: httpx.Client, folders: tuple[Path, Path]
) -> None:
    model, adapter = folders
    expected = own(model, None), own(model, adapter)
    assert message(client)["content"] == expected[0]
    assert message(client, model="a")["content"] == expected[1] != expected[0]
    for name, text in zip(("m", "a"), expected, strict=True):
        found = events(chat(client, model=name, stream=True).text)
        pieces = [c["delta"].get("content") or "" for e in found for c in e["choices"]]
        assert "".join(pieces) == text and len(pieces) > 3
    names = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert names == ["m", "a"]


def test_an_answer_has_the_form_that_was_asked_for(client: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA}}
    for more in ({"model": "m"}, {"model": "a", "temperature": 1, "seed": 3}):
        text = message(client, response_format=form, max_tokens=60, **more)["content"]
        assert json.loads(text).keys() == {"wet"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_has_arguments_of_its_schema(client: httpx.Client, stream: bool) -> None:
    look = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    asked = {"tools": [look], "tool_choice": "required", "max_tokens": 80, "stream": stream}
    if stream:
        deltas = [c["delta"] for e in events(chat(client, **asked).text) for c in e["choices"]]
        calls = [one for delta in deltas for one in delta.get("tool_calls") or []]
        name = calls[0]["function"]["name"]
        arguments = "".join(one["function"].get("arguments") or "" for one in calls)
    else:
        [call] = message(client, **asked)["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert name == "look" and json.loads(arguments).keys() == {"wet"}


def test_logprobs_are_those_of_the_answer(client: httpx.Client) -> None:
    choice = chat(client, logprobs=True, top_logprobs=2).json()["choices"][0]
    rows = choice["logprobs"]["content"]
    assert all(row["logprob"] == row["top_logprobs"][0]["logprob"] < 0 for row in rows)


def test_what_vllm_lacks_is_the_clients_fault(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": "m", "input": "water"})
    assert answer.status_code == 400 and "embeddings" in answer.text


def test_an_image_is_seen_behind_vllm(tmp_path: Path) -> None:
    model, renderer, requests = seeing(tmp_path)
    with deployed(
        "--model", str(model), "--served_model_name", "m", "--torch_dtype", "float32",
        "--infer_backend", "vllm", "--engine_python", PYTHON, "--vllm_enforce_eager", "true",
    ) as client:  # fmt: skip
        for request in requests[1:]:
            images = [Path(medium.source).read_bytes() for medium in request.media]
            urls = [f"data:image/png;base64,{b64encode(image).decode()}" for image in images]
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content = [*parts, {"type": "text", "text": "What is it?"}]
            asked = [{"role": "user", "content": content}]
            found = message(client, messages=asked, max_tokens=8)["content"]
            engine = TransformersEngine(
                load_model(model, torch.float32), load_tokenizer(model),
                marks=lambda: renderer.marks,
            )  # fmt: skip
            stop_ids = tuple(sorted(renderer.stop_ids))
            request = replace(request, sampling=Sampling(8, stop_ids=stop_ids))
            expected = renderer.parse(engine.generate([request])[0].tokens).content
            assert found == str(expected).rstrip("\ufffd")  # half characters are not sent
