"""What a page asks a server, in OpenAI's protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from swift.errors import ServerError

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_MOST = 2000  # characters of a server's words that are shown


@dataclass(frozen=True)
class Model:
    """A name that a server answers to.

    Attributes:
        takes: the kinds of media; None: the server does not say.
    """

    name: str
    takes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Api:
    """A server: ``url`` ends in /v1. The key is sent to it and shown nowhere."""

    url: str
    key: str | None = None

    async def models(self) -> list[Model]:
        """The models that it has.

        Raises:
            ServerError: it cannot be reached, or answers no such list.
        """
        async with self._client() as client:
            answer = await _accepted(await client.get(f"{self.url}/models"))
        try:
            return [_model(one) for one in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"{self.url}/models: no list of models") from None

    async def records(self) -> bool:
        """Whether it keeps judgements: it then knows no answer of this name, else no route."""
        async with self._client() as client:
            asked = {"id": "chatcmpl-none", "good": True}
            answer = await client.post(f"{self.url}/feedback", json=asked)
        try:
            return answer.json()["error"]["param"] == "id"
        except (ValueError, KeyError, TypeError):
            return False

    async def judge(
        self, id: str, *, good: bool | None = None, correction: str | None = None
    ) -> None:
        """Judge an answer.

        Raises:
            ServerError: the server refuses; in its words.
        """
        said = {"id": id, "good": good, "correction": correction}
        body = {name: value for name, value in said.items() if value is not None}
        async with self._client() as client:
            await _accepted(await client.post(f"{self.url}/feedback", json=body))

    async def events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of an answer; closing the iterator ends its generation.

        Raises:
            ServerError: the server refuses or fails; in its words.
        """
        async with (
            self._client() as client,
            client.stream("POST", f"{self.url}/chat/completions", json=body) as answer,
        ):
            await _accepted(answer)
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip()
                if data == line.strip() or data == "[DONE]":
                    continue
                yield _event(data)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT) as client:
                yield client
        except httpx.HTTPError as error:
            raise ServerError(
                f"the server at {self.url} cannot be reached, or broke off: "
                f"{error or type(error).__name__}"
            ) from None


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ServerError(f"the server sent what is no event: {data[:200]}")
    if event.get("error"):
        raise ServerError(said(data))
    return event


def _model(one: Mapping[str, Any]) -> Model:
    takes = one.get("input_modalities")
    known = tuple(kind for kind in takes if kind != "text") if takes is not None else None
    return Model(str(one["id"]), known)


async def _accepted(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        await answer.aread()
        wait = answer.headers.get("retry-after")
        again = f" (again in {wait} s)" if wait else ""
        raise ServerError(f"{answer.status_code}: {said(answer.text)}{again}")
    return answer


def said(text: str) -> str:
    """What a server says in an error, without what is around it."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return text.strip()[:_MOST]
    while isinstance(found, dict):
        found = next((found[name] for name in ("error", "message", "detail") if name in found), "")
    return str(found)[:_MOST] or text.strip()[:_MOST]
