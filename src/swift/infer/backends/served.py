"""An inference server as an engine: token ids in, token ids out, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from swift.errors import ConfigError, ServerError
from swift.infer.backends.client import Address, Client, ask_all
from swift.infer.backends.dialects import Body, Dialect
from swift.infer.choose import room
from swift.infer.engine import Ability, Completion, Piece, Request, Sampling, check


class ServedEngine:
    """Generates on a server that takes token ids."""

    def __init__(
        self, address: Address, dialect: Dialect, model: str, context: int | None = None
    ) -> None:
        """Take a server.

        Args:
            address: of the server.
            dialect: its kind.
            model: the name that it gives its model.
            context: most tokens of prompt and answer together, where it is known.
        """
        self._address, self._dialect, self._model = address, dialect, model
        self.context = context
        self.abilities = dialect.abilities
        self._adapters: set[str] = set()

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """See :class:`swift.infer.engine.Engine`.

        Raises:
            ServerError: the server fails.
        """
        self._check(requests)
        if on_token is None:
            return ask_all(self._address, requests, self._whole)
        [request] = requests
        _check_pieces(request)
        return ask_all(self._address, [request], lambda client, r: self._heard(client, r, on_token))

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """See :class:`swift.infer.engine.ServingEngine`."""
        self._check([request])
        _check_pieces(request)
        return self._own(request)

    async def _own(self, request: Request) -> AsyncIterator[Piece]:
        async with Client(self._address) as client:
            async for piece in self._pieces(client, request):
                yield piece

    async def _whole(self, client: Client, request: Request) -> Completion:
        d, s = self._dialect, request.sampling
        answer = await client.ask(d.path, await self._asked(request, stream=False))
        piece = d.hear(answer, request, 0)
        if piece.finish_reason is None or _uneven(piece):
            raise ServerError(
                f"{self._address.url}: an answer without its end: {str(answer)[:200]}"
            )
        read = d.prompt_logprobs(answer) if s.prompt_logprobs else None
        others = d.prompt_top(answer, s.prompt_top) if d.prompt_top and s.prompt_top else None
        return Completion(
            piece.tokens,
            piece.finish_reason,
            piece.logprobs,
            piece.top_logprobs,
            read,
            piece.logprobs if is_plain(s) else None,
            others,
        )

    async def _pieces(self, client: Client, request: Request) -> AsyncIterator[Piece]:
        """What came together is one piece: a reader that is behind has fewer of them."""
        d = self._dialect
        ended, seen = False, 0
        async for burst in client.bursts(d.path, await self._asked(request, stream=True)):
            pieces = []
            for event in burst:
                if not event.get("choices", True):
                    continue  # a server's word about usage
                piece = d.hear(event, request, seen)
                seen += len(piece.tokens)
                if _uneven(piece):
                    raise ServerError(f"{self._address.url}: tokens without logprobs: {event}")
                if piece.tokens or piece.finish_reason:
                    pieces.append(piece)
            if pieces:
                ended = ended or pieces[-1].finish_reason is not None
                yield pieces[0] if len(pieces) == 1 else _one(pieces)
        if not ended:
            raise ServerError(f"{self._address.url}: the answer ended without a reason")

    async def _heard(
        self, client: Client, request: Request, on_token: Callable[[int], None]
    ) -> Completion:
        pieces = []
        async for piece in self._pieces(client, request):
            pieces.append(piece)
            for token in piece.tokens:
                on_token(token)
        return join(pieces, request.sampling)

    async def _asked(self, request: Request, *, stream: bool) -> Body:
        """The JSON of a request, for no more tokens than fit."""
        limit = room(request, self.context)
        bounded = replace(request, sampling=replace(request.sampling, max_tokens=limit))
        if request.media:  # they are read and written anew: not in the event loop
            return await asyncio.to_thread(self._dialect.ask, bounded, self._model, stream)
        return self._dialect.ask(bounded, self._model, stream)

    def load_adapter(self, name: str, path: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        if Ability.ADAPTERS not in self.abilities or self._dialect.load is None:
            raise ConfigError(
                f"the {self._dialect.name} engine has no {Ability.ADAPTERS} as it was set up"
            )
        if name in self._adapters:
            raise ConfigError(f"an adapter {name!r} is loaded already; unload it first")
        self._tell(*self._dialect.load(name, path))
        self._adapters.add(name)

    def unload_adapter(self, name: str) -> None:
        """See :class:`swift.infer.engine.ServingEngine`."""
        self._known(name)
        assert self._dialect.unload is not None
        self._tell(*self._dialect.unload(name))
        self._adapters.discard(name)

    def _tell(self, route: str, body: dict[str, Any]) -> None:
        ask_all(self._address, [body], lambda client, one: client.tell(route, one))

    def _known(self, name: str) -> None:
        if name not in self._adapters:
            there = ", ".join(sorted(self._adapters)) or "none"
            raise ConfigError(f"no adapter {name!r} is loaded (loaded: {there})")

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """A server keeps its weights.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the {self._dialect.name} engine has no new weights at run time")

    def close(self) -> None:
        """Nothing is open between requests."""

    def _check(self, requests: Sequence[Request]) -> None:
        check(self.abilities, requests, self._dialect.name)
        for request in requests:
            if why := self._dialect.cannot(request):
                raise ConfigError(f"the {self._dialect.name} engine {why}")
            room(request, self.context)
            if request.adapter is not None:
                self._known(request.adapter)


def _check_pieces(request: Request) -> None:
    if request.sampling.prompt_logprobs:
        raise ConfigError("prompt_logprobs are not streamed; ask generate() for them")


def _uneven(piece: Piece) -> bool:
    """Whether logprobs are missing of some tokens."""
    counted = (piece.logprobs, piece.top_logprobs)
    return any(found is not None and len(found) != len(piece.tokens) for found in counted)


def is_plain(sampling: Sampling) -> bool:
    """Whether tokens are drawn from just what the model itself believes."""
    s = sampling
    changed = (s.repetition_penalty != 1, s.presence_penalty, s.frequency_penalty, s.logit_bias)
    cut = (s.top_p < 1, s.top_k, s.min_p, s.guide is not None, s.bad_words)
    return s.temperature == 1 and not any((*changed, *cut))


def _one(pieces: Sequence[Piece]) -> Piece:
    """Pieces as one."""
    logprobs = [x for piece in pieces for x in piece.logprobs or []]
    top = [x for piece in pieces for x in piece.top_logprobs or []]
    last = pieces[-1]
    return Piece(
        [token for piece in pieces for token in piece.tokens],
        None if last.logprobs is None else logprobs,
        None if last.top_logprobs is None else top,
        last.finish_reason,
    )


def join(pieces: Sequence[Piece], sampling: Sampling) -> Completion:
    """The whole answer that pieces make."""
    whole = _one(pieces)
    assert whole.finish_reason is not None
    return Completion(
        whole.tokens,
        whole.finish_reason,
        whole.logprobs,
        whole.top_logprobs,
        drawn_logprobs=whole.logprobs if is_plain(sampling) else None,
    )
