"""Servers of ``swift rollout`` as one engine: they share the prompts, and all get new weights."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from itertools import pairwise
from typing import Any, TypeVar

import torch

from swift.errors import ConfigError, EngineLost, ServerError
from swift.infer.backends.client import Address, Client
from swift.infer.choose import room
from swift.infer.engine import Ability, Completion, Request, check
from swift.infer.parts import pack

Item = TypeVar("Item")
Result = TypeVar("Result")

_PAUSE_S = 4.0  # longest between two tries
_PART = 64 << 20  # bytes of weights that are sent at once, where the server takes so much
_CAN = {Ability.IDS, Ability.LOGPROBS, Ability.PENALTIES, Ability.MIN_P, Ability.WEIGHTS}
_UNSENT = ("guide", "logit_bias", "bad_words", "prompt_logprobs", "prompt_top")


class RolloutServers:
    """Generates on servers that hold the weights of a run.

    ``version`` names the weights that answers are wanted of; None: whatever the servers have. It
    is set by :meth:`update`, or by hand where another process of the run did that.
    """

    name = "rollout"

    def __init__(self, addresses: Sequence[Address]) -> None:
        """Ask the servers what they can do.

        Args:
            addresses: of the servers; how often they are tried bounds how long one may be away.

        Raises:
            EngineLost: one cannot be reached.
            ConfigError: one refuses the key, or is another kind of server.
        """
        self.version: str | None = None
        self._open = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="rollout").start()

        async def open_all() -> list[Client]:
            return [await self._open.enter_async_context(Client(one)) for one in addresses]

        self._clients = self._wait(open_all)
        seen = self._wait(lambda: _each(self._clients, lambda client: client.look("/version")))
        for address, one in zip(addresses, seen, strict=True):
            if not isinstance(one, dict) or "abilities" not in one:
                raise ConfigError(f"{address.url} is no server of swift rollout: {str(one)[:80]}")
        self.abilities = frozenset(
            ability for ability in _CAN if all(ability in one["abilities"] for one in seen)
        )
        self.context: int | None = min(
            (one["context"] for one in seen if one["context"] is not None), default=None
        )
        self._part = min(_PART, *(one["max_body_bytes"] for one in seen))

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`; each server gets its share, in order.

        Raises:
            EngineLost: a server is gone, and did not come back in time.
            OtherWeights: it has other weights than ``version``, because it was started anew.
            ServerError: its engine fails with these requests.
            DataError: a prompt is empty or leaves no room in the model's context.
        """
        check(self.abilities, requests, self.name)
        for request in requests:
            room(request, self.context)
        servers = len(self._clients)
        cuts = [len(requests) * i // servers for i in range(servers + 1)]
        bodies = [
            {"version": self.version, "requests": [_body(r) for r in requests[a:b]]}
            for a, b in pairwise(cuts)
        ]

        async def ask(share: tuple[Client, Any]) -> Any:
            client, body = share
            return await client.ask("/generate", body) if body["requests"] else {"answers": []}

        shares = list(zip(self._clients, bodies, strict=True))
        parts = self._wait(lambda: _each(shares, ask))
        found = [completion for part in parts for completion in _read(part)]
        if on_token is not None:
            for token in found[0].tokens:
                on_token(token)
        return found

    def update(self, weights: Iterable[tuple[str, torch.Tensor]], version: str) -> None:
        """Give all servers new weights; on each they live at once and whole, or not at all.

        Args:
            weights: name and tensor, as in the checkpoint.
            version: what these weights are called from now on.

        Raises:
            EngineLost: a server is gone.
            ConfigError: a server has no such weights.
        """
        id = uuid.uuid4().hex
        said = {"id": id, "version": version}

        async def send() -> None:
            begun = await _each(self._clients, lambda c: c.ask("/weights/begin", said))
            open_ = [c for c, one in zip(self._clients, begun, strict=True) if not one["there"]]
            count = 0
            for part in pack(weights if open_ else (), self._part):
                path = f"/weights/part?id={id}&number={count}"
                await _each(open_, lambda c, p=path, b=part: c.send(p, b))  # type: ignore[misc]
                count += 1
            done = {**said, "parts": count}
            await _each(open_, lambda c: c.ask("/weights/commit", done))

        self._wait(send)
        self.version = version

    def close(self) -> None:
        """End the connections; the servers go on."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._open.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What work in the engine's event loop gives."""
        try:
            return asyncio.run_coroutine_threadsafe(work(), self._loop).result()
        except BaseExceptionGroup as group:
            first = group.exceptions[0]
        except ServerError as error:
            first = error
        if isinstance(first, ServerError) and not isinstance(first, EngineLost):
            raise EngineLost(f"a rollout server is lost: {first}") from None
        raise first from None


def address_of(url: str, key: str | None, away_s: float, answer_s: float) -> Address:
    """A server that is tried again until it was away for about ``away_s`` seconds.

    Args:
        url: without a slash at its end.
        key: that it asks for.
        away_s: as above.
        answer_s: longest time without a sign of life while it answers.
    """
    pause_s, waited_s, tries = 0.5, 0.0, 1
    while waited_s < away_s:
        waited_s, tries = waited_s + pause_s, tries + 1
        pause_s = min(2 * pause_s, _PAUSE_S)
    return Address(url, key, answer_s, tries, longest_pause_s=_PAUSE_S)


async def _each(items: Sequence[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """The same for all, side by side; the first failure ends the others."""

    async def one(item: Item) -> Result:
        return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]


def _body(request: Request) -> dict[str, Any]:
    """A request as the server reads it; what it cannot carry was refused by its abilities."""
    sampling = asdict(request.sampling)
    for name in _UNSENT:
        del sampling[name]
    return {"tokens": request.tokens, "sampling": sampling}


def _read(part: Any) -> list[Completion]:
    """The answers of one server.

    Raises:
        ServerError: its engine failed.
    """
    if part["answers"] is None:
        raise ServerError(part["error"])
    return [
        Completion(
            one["tokens"],
            one["finish_reason"],
            one["logprobs"],
            drawn_logprobs=one["drawn_logprobs"],
        )
        for one in part["answers"]
    ]
