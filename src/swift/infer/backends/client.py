"""Questions to a server over HTTP: many at once, again where that may help, limited in time.

With aiohttp, whose parser is C: a streamed token costs half of what it does with httpx.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import httpx2 as httpx

from swift.errors import ConfigError, OtherWeights, ServerError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_WRAPPED = ("error", "message", "detail", "error_message")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_KEPT_S = 4.0  # an unused connection; uvicorn closes it after five


@dataclass(frozen=True)
class Address:
    """A server, and how it is asked."""

    url: str  # without a slash at its end
    key: str | None = None  # sent as a bearer token
    timeout_s: float = 600.0  # without a sign of life
    tries: int = 5
    pause_s: float = 0.5  # before the second try; doubled before each further one
    longest_pause_s: float = 60.0
    at_once: int = 32  # questions under way
    socket: Path | None = None  # a Unix socket that it is reached by, whatever the url says


@cache
def _trust() -> ssl.SSLContext:
    """Whose certificates count, read once: it takes 20 ms, as long as a dozen tokens."""
    return httpx.create_ssl_context()  # with authorities where the system has none


def _connector(socket: Path | None) -> aiohttp.BaseConnector:
    if socket is not None:
        return aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=_KEPT_S)
    return aiohttp.TCPConnector(limit=0, ssl=_trust(), keepalive_timeout=_KEPT_S)


class Client:
    """Asks one server from one event loop; close it with ``async with``."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {address.key}"} if address.key else {},
            timeout=aiohttp.ClientTimeout(
                sock_connect=min(10.0, address.timeout_s), sock_read=address.timeout_s
            ),
            connector=_connector(address.socket),
            trust_env=address.socket is None,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers.

        Raises:
            ConfigError: it refuses the question.
            ServerError: it cannot be reached, fails again and again, or answers no JSON.
        """
        return self._json(await self._text("POST", path, json=body), path)

    async def send(self, path: str, content: bytes) -> None:
        """Send bytes; raises as :meth:`ask`."""
        kind = {"Content-Type": "application/octet-stream"}
        await self._text("POST", path, data=content, headers=kind)

    async def look(self, path: str) -> Any:
        """The JSON that the server shows; raises as :meth:`ask`."""
        return self._json(await self._text("GET", path), path)

    async def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """Send something whose answer says no more than that it is done; raises as :meth:`ask`."""
        await self._text("POST", path, json=body)

    async def _text(self, method: str, path: str, **sent: Any) -> str:
        async def once() -> str:
            url = self._address.url + path
            async with self._http.request(method, url, **sent) as answer:
                await self._accept(answer, path)
                return await answer.text(errors="replace")

        return await self._again(once, path)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The JSON of each server-sent event; raises as :meth:`bursts`."""
        async for burst in self.bursts(path, body):
            for event in burst:
                yield event

    async def bursts(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[list[Any]]:
        """The JSON of server-sent events that came together, up to ``[DONE]`` or the stream's end.

        Some servers send no ``[DONE]``: whether an answer is whole, its own last event says. Only
        the beginning is tried again: what has been passed on cannot be taken back.

        Raises:
            ConfigError, ServerError: as :meth:`ask`; and where the connection breaks.
        """

        async def begin() -> aiohttp.ClientResponse:
            answer = await self._http.post(self._address.url + path, json=body)
            try:
                await self._accept(answer, path)
            except BaseException:
                answer.close()
                raise
            return answer

        rest = b""
        async with await self._again(begin, path) as answer:
            with self._named(path):
                async for came in answer.content.iter_any():
                    *lines, rest = (rest + came).split(b"\n")
                    told = [line[5:].strip() for line in lines if line.startswith(b"data:")]
                    ended = b"[DONE]" in told
                    whole = told[: told.index(b"[DONE]")] if ended else told
                    if burst := [self._event(data, path) for data in whole]:
                        yield burst
                    if ended:
                        return

    def _event(self, data: bytes, path: str) -> Any:
        text = data.decode(errors="replace")
        event = self._json(text, path)
        if isinstance(event, dict) and (error := event.get("error")):
            code = error.get("code") if isinstance(error, dict) else None
            refused = isinstance(code, int) and 400 <= code < 500  # as vLLM says it in a stream
            kind = ConfigError if refused else ServerError
            raise kind(f"{self._address.url}{path}: {_said(text)}")
        return event

    async def _again(self, once: Callable[[], Awaitable[Answer]], path: str) -> Answer:
        pause_s = self._address.pause_s
        for left in reversed(range(self._address.tries)):
            try:
                with self._named(path):
                    return await once()
            except _Busy as busy:
                if not left:
                    raise ServerError(f"{busy} ({self._address.tries} tries)") from None
                wait_s = pause_s * random.uniform(1.0, 1.5) if busy.wait_s is None else busy.wait_s
                await asyncio.sleep(wait_s)
                pause_s = min(2 * pause_s, self._address.longest_pause_s)
        raise AssertionError("there is at least one try")

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Failures of the connection, with the address."""
        where = f"{self._address.url}{path}"
        try:
            yield
        except TimeoutError:  # aiohttp's own are of this kind
            raise ServerError(
                f"{where}: no sign of life for {self._address.timeout_s:g} seconds"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise _Busy(f"{where} cannot be reached: {error}") from None
        except aiohttp.ClientError as error:
            raise _Busy(f"{where}: the connection broke: {error or repr(error)}") from None

    async def _accept(self, answer: aiohttp.ClientResponse, path: str) -> None:
        if answer.status < 400:
            return
        said = _said(await answer.text(errors="replace"))
        why = f"{self._address.url}{path}: {answer.status} {said}"
        if answer.status == 412:
            raise OtherWeights(why)
        if answer.status in _AGAIN:
            raise _Busy(why, _wait(answer.headers.get("retry-after")))
        raise ConfigError(why)

    def _json(self, text: str, path: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise ServerError(
                f"{self._address.url}{path}: what it answers is no JSON: {text[:80]!r}"
            ) from None


class _Busy(ServerError):
    """Worth another try."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def _wait(header: str | None) -> float | None:
    """Seconds of a ``Retry-After``; a date is not waited for."""
    try:
        return min(120.0, max(0.0, float(header))) if header else None
    except ValueError:
        return None


def _said(text: str) -> str:
    """The message in an error of a server, however it wraps it."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()[:300]
    while isinstance(found, dict):
        inner = next((found[k] for k in _WRAPPED if found.get(k)), None)
        if inner is None:
            break
        found = inner
    return str(found)[:300]


def ask_all(
    address: Address,
    items: Sequence[Item],
    ask: Callable[[Client, Item], Awaitable[Answer]],
) -> list[Answer]:
    """Answers to many questions, in their order; the first failure ends all.

    Runs an event loop of its own in a thread of its own, so that it can be called from anywhere.
    """

    async def run() -> list[Answer]:
        places = asyncio.Semaphore(address.at_once)

        async def one(item: Item) -> Answer:
            async with places:
                return await ask(client, item)

        async with Client(address) as client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
        return [task.result() for task in tasks]

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, run()).result()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
