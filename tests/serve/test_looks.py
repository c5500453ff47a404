"""What a server tells of itself: metrics, the document of its interface, and that it keeps it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest
import serving
from serving import SayingEngine, chat, client_of, post, serve, user

from swift.chat.render import Renderer


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return serving.renderer_of()


def get(app: Any, path: str) -> Any:
    async def ask() -> Any:
        async with client_of(app) as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_metrics_add_up(renderer: Renderer) -> None:
    app = serve(SayingEngine(renderer, "one two"), renderer)
    usages = [chat(app).json()["usage"] for _ in range(3)]
    chat(app, temprature=1)
    for number in range(5):
        assert get(app, f"/nowhere/{number}").status_code == 404
    text = get(app, "/metrics").text
    found = dict(re.findall(r"^(swift_\w+(?:\{.*\})?) ([\d.e+]+)$", text, re.M))
    assert float(found['swift_answers_total{end="stop",model="tiny"}']) == 3
    tokens = sum(usage["completion_tokens"] for usage in usages)
    assert float(found['swift_answer_tokens_total{model="tiny"}']) == tokens
    route = '{route="/v1/chat/completions",status="%s"}'
    assert float(found["swift_requests_total" + route % 200]) == 3
    assert float(found["swift_requests_total" + route % 400]) == 1
    assert float(found['swift_requests_total{route="none",status="404"}']) == 5
    assert float(found["swift_running"]) == float(found["swift_waiting"]) == 0
    assert float(found["swift_request_seconds_count"]) == 3


def test_the_document_names_every_route_and_field(renderer: Renderer) -> None:
    document = get(serve(SayingEngine(renderer, "x"), renderer), "/openapi.json").json()
    for path, body in (
        ("/v1/chat/completions", {"model": "m", "messages": user("a"), "tool_choice": "auto"}),
        ("/v1/completions", {"model": "m", "prompt": [[1, 2]]}),
        ("/v1/messages", {"model": "m", "messages": user("a"), "max_tokens": 3}),
        ("/v1/responses", {"model": "m", "input": user("a")}),
        ("/v1/embeddings", {"model": "m", "input": ["a"], "encoding_format": "base64"}),
        ("/tokenize", {"model": "m", "prompt": "a"}),
        ("/v1/feedback", {"id": "a", "good": True}),
    ):
        said = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = {**said["schema"], "components": document["components"]}
        jsonschema.validate(body, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**body, "temprature": 1}, schema)


def test_what_is_drawn_from_the_document_never_breaks_the_server(renderer: Renderer) -> None:
    """Bodies made at random from the document: answered or refused in the protocol's shape."""
    import schemathesis

    app = serve(SayingEngine(renderer, "x"), renderer)
    document = get(app, "/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    seen: set[tuple[str, int]] = set()
    for path in [path for path, routes in document["paths"].items() if "post" in routes]:
        draw(app, path, schema[path]["POST"], seen)
    assert ("/v1/completions", 200) in seen, seen


def draw(app: Any, path: str, operation: Any, seen: set[tuple[str, int]]) -> None:
    """Send bodies that fit one route's schema."""
    from hypothesis import HealthCheck, given, settings

    @settings(
        max_examples=5, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy())
    def holds(case: Any) -> None:
        body = {**case.body, **({"model": "tiny"} if "model" in case.body else {})}
        done = post(app, path, json.dumps(body).encode())
        assert done.status_code < 500, (path, body, done.text)
        seen.add((path, done.status_code))
        if done.status_code >= 400:
            assert done.json()["error"]["message"]

    holds()
