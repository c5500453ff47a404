"""Around requests: who may come in, how large a body may be, streams that end with their reader."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.serve import anthropic, openai
from swift.serve.keys import Keys
from swift.serve.refused import Refused
from swift.serve.timer import Timer

OPEN = ("/health", "/ready")
"""Routes that need no key."""

_DIGITS = 18  # of a length that anybody means

Result = TypeVar("Result")


@dataclass
class Bodies:
    """How large bodies of requests may be, each and all together, in bytes."""

    most: int
    most_together: int
    timeout_s: float  # longest that one may take to come
    held: int = 0


class Guard:
    """Lets in only who has a key, whatever the route, and no body that is too large."""

    def __init__(
        self, app: ASGIApp, keys: Keys, bodies: Bodies, requests: Counter | None = None
    ) -> None:
        self._app = app
        self._keys = keys
        self._bodies = bodies
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        scope.setdefault("state", {}).update(bodies=self._bodies, held=[])
        try:
            self._check(scope)
        except Refused as refused:
            await refusal(scope["path"], refused)(scope, receive, self._counting(scope, send))
            return
        try:
            await self._app(scope, receive, self._counting(scope, send))
        finally:
            self._bodies.held -= sum(scope["state"]["held"])

    def _counting(self, scope: Scope, send: Send) -> Send:
        """Count an answer by its route; all paths that are none are one."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and self._requests is not None:
                route = getattr(scope.get("route"), "path", "none")
                self._requests.labels(route, message["status"]).inc()
            await send(message)

        return counted

    def _check(self, scope: Scope) -> None:
        if scope["path"] in OPEN:
            return
        caller = self._keys.caller(scope["headers"])
        if caller is None:
            raise Refused(
                401,
                "a key is needed: Authorization: Bearer KEY (or X-API-Key: KEY)",
                code="invalid_api_key",
            )
        scope["state"]["caller"] = caller
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "Content-Encoding: send the body as it is", code="invalid_header")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > _DIGITS:
            raise Refused(400, "Content-Length: should be a number", code="invalid_header")
        if int(length) > self._bodies.most:
            raise _too_large(self._bodies.most)


def _too_large(most: int) -> Refused:
    return Refused(
        413, f"the body is larger than {most} bytes, this server's limit", code="too_large"
    )


async def body_of(request: Request) -> bytes:
    """The body of a request, within the server's bounds of size and time.

    Raises:
        Refused: it is too large or too slow.
    """
    bodies: Bodies = request.state.bodies
    content = bytearray()
    try:
        async with asyncio.timeout(bodies.timeout_s):
            async for chunk in request.stream():
                content += chunk
                request.state.held.append(len(chunk))
                bodies.held += len(chunk)
                if len(content) > bodies.most:
                    raise _too_large(bodies.most)
                if bodies.held > bodies.most_together:
                    raise Refused(
                        429,
                        "the bodies of all requests under way are too large together",
                        code="overloaded",
                        retry_after_s=2,
                    )
    except TimeoutError:
        raise Refused(408, "the body did not come in time", code="timeout") from None
    return bytes(content)


def refusal(path: str, refused: Refused) -> Response:
    """A refusal in the shape of its route's protocol."""
    shape = anthropic.error if path.startswith("/v1/messages") else openai.error
    headers = {}
    if refused.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after_s)))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(shape(refused), refused.status, headers)


class Gone(Exception):
    """The client has closed the connection."""


async def while_there(receive: Receive, work: Awaitable[Result]) -> Result:
    """Work for a client, ended as soon as it is gone; its body has been read before.

    Raises:
        Gone: it went.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, leaving):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events; the source is closed when the client goes, or takes nothing for long."""

    media_type = "text/event-stream"
    patience_s = 60.0

    def __init__(self, events: AsyncGenerator[str, None], headers: dict[str, str]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", **headers})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with aclosing(self._events):
            with suppress(Gone, OSError, TimeoutError):
                await while_there(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        now = asyncio.get_running_loop().time
        with closing(Timer()) as timer:
            async for event in self._events:
                body = {"body": event.encode(), "more_body": True}
                sent = send({"type": "http.response.body", **body})
                await timer.wait(sent, now() + self.patience_s)
        await send({"type": "http.response.body", "body": b""})


def json_bytes(value: Any) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
