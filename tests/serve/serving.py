"""Servers for tests, and what is sent to them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from fastapi import FastAPI
from saying import SayingEngine

import tiny
from swift.chat.render import Renderer, RendererSpec
from swift.infer.engine import Sampling
from swift.observe.log import Log
from swift.serve.answer import Answerer
from swift.serve.app import make_app
from swift.serve.fetch import Fetcher
from swift.serve.http import Bodies
from swift.serve.keys import Caller, Keys
from swift.serve.limits import Gate
from swift.serve.metrics import Metrics
from swift.serve.models import Models
from swift.serve.service import Service
from swift.serve.wire import Defaults

HERMES = (
    "{% if tools %}{{ '<|im_start|>system\nTools: ' }}{% for tool in tools %}{{ tool | tojson }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and m['reasoning_content'] %}"
    "{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' }}{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{{ p['text'] }}{% endfor %}{% endif %}"
    "{% for c in m['tool_calls'] or [] %}"
    "{{ '\n<tool_call>\n{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' "
    "+ c['function']['arguments'] | tojson + '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
__all__ = ["CALL", "SayingEngine"]
CALL = '\n<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'


def renderer_of(template: str = HERMES) -> Renderer:
    """A renderer with the tiny tokenizer."""
    made = tiny.make_tokenizer()
    variables = {k: v for k, v in made.special_tokens_map.items() if isinstance(v, str)}
    spec = RendererSpec(made.backend_tokenizer.to_str(), {"default": template}, variables, (2,), 2)
    return Renderer(spec)


def serve(
    engine: Any,
    renderer: Renderer,
    *,
    system: str | None = None,
    sampling: Sampling | None = None,
    gate: Gate | None = None,
    keys: Keys | None = None,
    deadline_s: float = 60.0,
    most_media: int = 16,
    recorder: Any = None,
    max_body: int = 32 << 20,
    together: int = 64 << 20,
    body_timeout_s: float = 60.0,
    fetcher: Fetcher | None = None,
    turns: bool = False,
) -> FastAPI:
    """An application over an engine."""
    service = Service(
        Answerer(renderer, engine, system),
        Models(engine, "tiny"),
        gate or Gate(64, 64, 30),
        Metrics(),
        Defaults(
            sampling or Sampling(400),
            most_media=most_media,
            hosts=fetcher.hosts if fetcher else (),
        ),
        deadline_s,
        Log(speaking=False),
        recorder=recorder,
        fetcher=fetcher,
        turns=turns,
    )
    bodies = Bodies(max_body, together, body_timeout_s)
    return make_app(service, keys or Keys({}, Caller("anyone")), bodies)


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client that talks to an application in this process."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://swift", headers=headers)


def chat(app: FastAPI, **body: Any) -> httpx.Response:
    """One chat completion."""
    return post(app, "/v1/chat/completions", {"messages": user("Hello"), **body})


def post(app: FastAPI, path: str, body: Any, **headers: str) -> httpx.Response:
    """One request."""

    async def send() -> httpx.Response:
        async with client_of(app, **headers) as client:
            if isinstance(body, bytes):
                return await client.post(path, content=body)
            return await client.post(path, json={"model": "tiny", **body})

    return asyncio.run(send())


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def events(response: httpx.Response) -> list[Any]:
    """The data of server-sent events; [DONE] as None."""
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return [None if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
