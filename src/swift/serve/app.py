"""The routes of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from swift import __version__
from swift.serve import openai
from swift.serve.ask import Answer, Ask, Step, Usage
from swift.serve.http import EventStream, Gone, Guard, body_of, json_bytes, refusal, while_there
from swift.serve.keys import Keys
from swift.serve.metrics import CONTENT_TYPE
from swift.serve.refused import Refused, refusal_of
from swift.serve.service import Exchange, Service
from swift.serve.wire import Defaults

_LARGE = 1 << 16  # bytes of a body that is read beside the event loop


class Stream(Protocol):
    """A protocol's events of one streamed answer."""

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


FORMS = (
    Form(
        "/v1/chat/completions", openai.Request, openai.ask, openai.whole, openai.Stream, "chatcmpl"
    ),
)


def make_app(
    service: Service, keys: Keys, max_body: int = 32 << 20, body_timeout_s: float = 60.0
) -> FastAPI:
    """The application.

    Args:
        service: answers.
        keys: who may ask.
        max_body: most bytes of a request.
        body_timeout_s: longest that a request's body may take to come.
    """
    app = FastAPI(title="swift", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, keys=keys, max_body=max_body, body_timeout_s=body_timeout_s)
    _add_errors(app, service)
    for form in FORMS:
        _add_form(app, service, form)
    _add_looks(app, service)
    return app


def _add_errors(app: FastAPI, service: Service) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(request.url.path, error)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return refusal(request.url.path, said)

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
        exchange = Exchange(openai.new_id(form.prefix), ask, request.state.caller)
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
            for event in stream.step(first):
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


def _body(wire: type[BaseModel]) -> dict[str, Any]:
    """The request body for the OpenAPI document."""
    schema = wire.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


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
