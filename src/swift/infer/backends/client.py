"""Questions to a server over HTTP: many at once, again where that may help, limited in time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2 as httpx

from swift.errors import ConfigError, ServerError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_WRAPPED = ("error", "message", "detail", "error_message")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Address:
    """A server, and how it is asked."""

    url: str  # without a slash at its end
    key: str | None = None  # sent as a bearer token
    timeout_s: float = 600.0  # without a sign of life
    tries: int = 5
    pause_s: float = 0.5  # before the second try; doubled before each further one
    at_once: int = 32  # questions under way


class Client:
    """Asks one server from one event loop; close it with ``async with``."""

    def __init__(self, address: Address) -> None:
        self._address = address
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        limits = httpx.Limits(max_connections=None)
        timeout = httpx.Timeout(address.timeout_s, connect=min(10.0, address.timeout_s))
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that the server answers.

        Raises:
            ConfigError: it refuses the question.
            ServerError: it cannot be reached, fails again and again, or answers no JSON.
        """

        async def once() -> Any:
            answer = await self._http.post(self._address.url + path, json=body)
            await self._accept(answer, path)
            return self._json(answer.text, path)

        return await self._again(once, path)

    async def look(self, path: str) -> Any:
        """The JSON that lies at a path; raises as :meth:`ask`."""

        async def once() -> Any:
            answer = await self._http.get(self._address.url + path)
            await self._accept(answer, path)
            return self._json(answer.text, path)

        return await self._again(once, path)

    async def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """Send something whose answer says no more than that it is done; raises as :meth:`ask`."""

        async def once() -> None:
            await self._accept(await self._http.post(self._address.url + path, json=body), path)

        await self._again(once, path)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The JSON of each server-sent event, up to ``[DONE]`` or the end of the stream.

        Some servers send no ``[DONE]``: whether an answer is whole, its own last event says. Only
        the beginning is tried again: what has been passed on cannot be taken back.

        Raises:
            ConfigError, ServerError: as :meth:`ask`; and where the connection breaks.
        """

        async def begin() -> httpx.Response:
            question = self._http.build_request("POST", self._address.url + path, json=body)
            answer = await self._http.send(question, stream=True)
            try:
                await self._accept(answer, path)
            except BaseException:
                await answer.aclose()
                raise
            return answer

        answer = await self._again(begin, path)
        try:
            async with self._named(path):
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    event = self._json(data, path)
                    if isinstance(event, dict) and event.get("error"):
                        raise ServerError(f"{self._address.url}{path}: {_said(data)}")
                    yield event
        finally:
            await answer.aclose()

    async def _again(self, once: Callable[[], Awaitable[Answer]], path: str) -> Answer:
        pause_s = self._address.pause_s
        for left in reversed(range(self._address.tries)):
            try:
                async with self._named(path):
                    return await once()
            except _Busy as busy:
                if not left:
                    raise ServerError(f"{busy} ({self._address.tries} tries)") from None
                wait_s = pause_s * random.uniform(1.0, 1.5) if busy.wait_s is None else busy.wait_s
                await asyncio.sleep(wait_s)
                pause_s *= 2
        raise AssertionError("there is at least one try")

    @asynccontextmanager
    async def _named(self, path: str) -> AsyncIterator[None]:
        """Failures of the connection, with the address."""
        where = f"{self._address.url}{path}"
        try:
            yield
        except httpx.ConnectError as error:
            raise _Busy(f"{where} cannot be reached: {error}") from None
        except httpx.TimeoutException:
            raise ServerError(
                f"{where}: no sign of life for {self._address.timeout_s:g} seconds"
            ) from None
        except httpx.TransportError as error:
            raise _Busy(f"{where}: the connection broke: {error or repr(error)}") from None

    async def _accept(self, answer: httpx.Response, path: str) -> None:
        if answer.status_code < 400:
            return
        await answer.aread()
        why = f"{self._address.url}{path}: {answer.status_code} {_said(answer.text)}"
        if answer.status_code in _AGAIN:
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
