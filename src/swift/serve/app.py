"""The routes of the service."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from swift import __version__
from swift.observe.log import Log
from swift.serve import anthropic, completions, embeddings, feedback, openai, responses, words
from swift.serve.ask import Answer, Ask, Step, Usage
from swift.serve.feedback import Feedback
from swift.serve.http import (
    Bodies,
    EventStream,
    Gone,
    Guard,
    body_of,
    json_bytes,
    refusal,
    while_there,
)
from swift.serve.keys import Caller, Keys
from swift.serve.metrics import CONTENT_TYPE
from swift.serve.refused import Refused, refusal_of
from swift.serve.service import Exchange, Service
from swift.serve.wire import Defaults, Wire

_LARGE = 1 << 16  # bytes of a body that is read beside the event loop


class Stream(Protocol):
    """A protocol's events of one streamed answer."""

    def begin(self, usage: Usage) -> Any:
        """The events before the first step."""

    def step(self, step: Step) -> Any:
        """The events of a step."""

    def end(self, usage: Usage) -> Any:
        """The events behind the last step."""

    def failed(self, refused: Refused) -> Any:
        """The events of an error in the middle of an answer."""


@dataclass(frozen=True)
class Form:
    """One protocol: its wire type, and pure functions from and to the wire."""

    path: str
    wire: type[BaseModel]
    ask: Callable[[Any, Defaults], Ask]
    whole: Callable[[Any, str, Sequence[Answer], Usage], dict[str, Any]]
    stream: Callable[[Any, str], Stream]
    prefix: str  # of ids


class LoadAdapter(Wire):
    """The body of ``POST /v1/load_lora_adapter``, as vLLM has it."""

    lora_name: Annotated[str, Field(pattern=r"^[\w.:/@-]{1,128}$")]
    lora_path: Annotated[str, Field(min_length=1)]


class UnloadAdapter(Wire):
    """The body of ``POST /v1/unload_lora_adapter``."""

    lora_name: str


FORMS = (
    Form(
        "/v1/chat/completions", openai.Request, openai.ask, openai.whole, openai.Stream,
        "chatcmpl-",
    ),
    Form(
        "/v1/completions", completions.Request, completions.ask, completions.whole,
        completions.Stream, "cmpl-",
    ),
    Form("/v1/messages", anthropic.Request, anthropic.ask, anthropic.whole, anthropic.Stream,
         "msg_"),
    Form("/v1/responses", responses.Request, responses.ask, responses.whole, responses.Stream,
         "resp_"),
)  # fmt: skip


_OTHERS = (
    embeddings.Request, words.Tokenize, words.Detokenize, anthropic.Prompt, LoadAdapter,
    UnloadAdapter, Feedback,
)  # fmt: skip


class App(FastAPI):
    """FastAPI with bodies in its document that it does not read itself.

    They are read by pydantic from the bytes: that bounds their depth, and refuses in the protocol's
    own shape.
    """

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            parts = super().openapi().setdefault("components", {}).setdefault("schemas", {})
            for wire in (*(form.wire for form in FORMS), *_OTHERS):
                parts.update(_schema(wire)[1])
        assert self.openapi_schema is not None
        return self.openapi_schema


def make_app(service: Service, keys: Keys, bodies: Bodies) -> FastAPI:
    """The application.

    Args:
        service: answers.
        keys: who may ask.
        bodies: how large requests may be.
    """
    app = App(title="swift", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    counts = service.metrics.requests
    app.add_middleware(Guard, keys=keys, bodies=bodies, requests=counts)
    add_errors(app, service.log)
    for form in FORMS:
        _add_form(app, service, form)
    _add_looks(app, service)
    _add_words(app, service)
    _add_changes(app, service)
    return app


def add_errors(app: FastAPI, log: Log) -> None:
    """Have everything that goes wrong answered in the shape of its route's protocol."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(request.url.path, error)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return refusal(request.url.path, said)

    async def broken(request: Request, error: Exception) -> Response:
        said = "".join(traceback.format_exception(error))
        log.warn(f"{request.method} {request.url.path}: {said}")
        failed = Refused(500, "the server failed; another request may work", code="internal")
        return refusal(request.url.path, failed)

    app.add_exception_handler(Exception, broken)
    app.add_exception_handler(Refused, refuse)
    app.add_exception_handler(Gone, gone)
    app.add_exception_handler(HTTPException, unknown)


async def read(request: Request, wire: type[BaseModel]) -> Any:
    """The body of a request as its wire type.

    Raises:
        Refused: it is not of that form.
    """
    body = await body_of(request)
    try:
        if len(body) > _LARGE:
            return await asyncio.to_thread(wire.model_validate_json, body)
        return wire.model_validate_json(body)
    except ValidationError as error:
        raise refusal_of(error) from None


def _add_form(app: FastAPI, service: Service, form: Form) -> None:
    async def answer(request: Request) -> Response:
        wire = await read(request, form.wire)
        ask = form.ask(wire, service.defaults)
        exchange = Exchange(form.prefix + uuid.uuid4().hex, ask, request.state.caller)
        steps = service.steps(exchange)
        headers = {"X-Request-Id": exchange.id}
        if getattr(wire, "stream", None):
            first = await while_there(request.receive, anext(steps))
            stream = form.stream(wire, exchange.id)
            return EventStream(_events(stream, first, steps, exchange), headers)
        await while_there(request.receive, _exhaust(steps))
        body = form.whole(wire, exchange.id, exchange.answers, exchange.usage)
        return Response(json_bytes(body), media_type="application/json", headers=headers)

    app.post(form.path, openapi_extra=_body(form.wire))(answer)


async def _exhaust(steps: AsyncGenerator[Step, None]) -> None:
    async with aclosing(steps):
        async for _ in steps:
            pass


async def _events(
    stream: Stream, first: Step, steps: AsyncGenerator[Step, None], exchange: Exchange
) -> AsyncGenerator[str, None]:
    async with aclosing(steps):
        try:
            for event in (*stream.begin(exchange.usage), *stream.step(first)):
                yield event
            async for step in steps:
                for event in stream.step(step):
                    yield event
        except Refused as refused:
            for event in stream.failed(refused):
                yield event
            return
    for event in stream.end(exchange.usage):
        yield event


@cache
def _schema(wire: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a body, and its parts by the name under which OpenAPI keeps them."""
    place = f"{wire.__module__.rpartition('.')[2]}.{wire.__name__}"
    schema = wire.model_json_schema(ref_template=f"#/components/schemas/{place}.{{model}}")
    parts = schema.pop("$defs", {})
    return schema, {f"{place}.{name}": part for name, part in parts.items()}


def _body(wire: type[BaseModel]) -> dict[str, Any]:
    """The body of a route for the OpenAPI document."""
    content = {"application/json": {"schema": _schema(wire)[0]}}
    return {"requestBody": {"required": True, "content": content}}


def _add_looks(app: FastAPI, service: Service) -> None:
    """Routes that only tell."""

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def models() -> dict[str, Any]:
        return service.models.listed()

    async def model(name: str) -> dict[str, Any]:
        return service.models.one(name)

    async def metrics() -> Response:
        service.metrics.running.set(service.gate.running)
        service.metrics.waiting.set(service.gate.waiting)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    app.get("/health")(health)
    app.get("/ready")(health)
    app.get("/v1/models")(models)
    app.get("/v1/models/{name:path}")(model)
    app.get("/metrics")(metrics)


def _add_words(app: FastAPI, service: Service) -> None:
    """Routes about tokens and texts."""
    answerer, defaults = service.answerer, service.defaults

    async def tokenize(request: Request) -> dict[str, Any]:
        service.gate.admit(request.state.caller, 0)
        wire = await read(request, words.Tokenize)
        service.models.adapter_of(wire.model)
        ask = await service.fetched(words.asked(wire, defaults))
        return await asyncio.to_thread(words.tokens_of, wire, ask, answerer)

    async def detokenize(request: Request) -> dict[str, Any]:
        service.gate.admit(request.state.caller, 0)
        wire = await read(request, words.Detokenize)
        service.models.adapter_of(wire.model)
        return await asyncio.to_thread(words.text_of, wire, answerer)

    async def count(request: Request) -> dict[str, Any]:
        service.gate.admit(request.state.caller, 0)
        wire = await read(request, anthropic.Prompt)
        service.models.adapter_of(wire.model)
        ask = await service.fetched(anthropic.ask(wire, defaults))
        return {"input_tokens": len(await asyncio.to_thread(answerer.tokens, ask))}

    async def embeddings_(request: Request) -> Response:
        wire = await read(request, embeddings.Request)
        found = await embeddings.answer(wire, service, request.state.caller)
        return Response(json_bytes(found), media_type="application/json")

    app.post("/v1/embeddings", openapi_extra=_body(embeddings.Request))(embeddings_)
    app.post("/tokenize", openapi_extra=_body(words.Tokenize))(tokenize)
    app.post("/detokenize", openapi_extra=_body(words.Detokenize))(detokenize)
    app.post("/v1/messages/count_tokens", openapi_extra=_body(anthropic.Prompt))(count)


def _add_changes(app: FastAPI, service: Service) -> None:
    """Routes that change something."""

    def may_load(caller: Caller) -> None:
        if not (service.adapter_loading or caller.admin):
            raise Refused(
                403,
                "adapters are loaded by keys with admin: true, or by all with "
                "--allow_adapter_loading true",
                code="forbidden",
            )

    async def load(request: Request) -> dict[str, Any]:
        may_load(request.state.caller)
        wire = await read(request, LoadAdapter)
        await service.models.load(wire.lora_name, wire.lora_path)
        service.log(f"adapter {wire.lora_name}: {wire.lora_path} (loaded by {_who(request)})")
        return service.models.one(wire.lora_name)

    async def unload(request: Request) -> dict[str, Any]:
        may_load(request.state.caller)
        wire = await read(request, UnloadAdapter)
        await service.models.unload(wire.lora_name)
        service.log(f"adapter {wire.lora_name}: unloaded by {_who(request)}")
        return {"id": wire.lora_name, "deleted": True}

    async def judge(request: Request) -> dict[str, Any]:
        wire = await read(request, Feedback)
        caller = _who(request)
        return await asyncio.to_thread(feedback.judge, wire, service.recorder, caller)

    app.post("/v1/load_lora_adapter", openapi_extra=_body(LoadAdapter))(load)
    app.post("/v1/unload_lora_adapter", openapi_extra=_body(UnloadAdapter))(unload)
    app.post("/v1/feedback", openapi_extra=_body(Feedback))(judge)


def _who(request: Request) -> str:
    caller: Caller = request.state.caller
    return caller.name
