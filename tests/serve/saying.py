"""An engine that says what a test wants, at a given pace. Needs no torch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from swift.chat.render import Renderer
from swift.errors import ConfigError
from swift.infer.engine import Ability, Completion, Piece, Request, Sampling

Say = Callable[[Request], str]


class SayingEngine:
    """Says what a script gives, ``size`` tokens a piece, one piece every ``pace_s``."""

    abilities = frozenset(Ability) - {Ability.MEDIA, Ability.EMBEDDINGS}

    def __init__(
        self,
        renderer: Renderer,
        say: Say | str,
        *,
        size: int = 1,
        pace_s: float = 0.0,
        context: int | None = 512,
        lacks: Iterable[Ability] = (),
    ) -> None:
        self.renderer, self.size, self.pace_s, self.context = renderer, size, pace_s, context
        self.say: Say = say if callable(say) else lambda request: str(say)
        self.abilities = self.abilities - frozenset(lacks)
        self.seen: list[Request] = []
        self.live = self.most = self.broken_off = self.told = 0
        self.adapters: dict[str, str] = {}
        self.fail_at: int | None = None  # the piece at which it raises

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        raise AssertionError("a server streams")

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        self.seen.append(request)
        ids = list(self.renderer.tokenizer.encode(self.say(request)).ids)
        ids.append(next(iter(request.sampling.stop_ids)))
        finish = "length" if len(ids) > request.sampling.max_tokens else "stop"
        ids = ids[: request.sampling.max_tokens]
        self.live += 1
        self.most = max(self.most, self.live)
        whole = False
        try:
            for number, at in enumerate(range(0, len(ids), self.size)):
                await asyncio.sleep(self.pace_s)
                if number == self.fail_at:
                    raise RuntimeError("CUDA error: an illegal memory access")
                part = ids[at : at + self.size]
                self.told += len(part)
                whole = at + self.size >= len(ids)
                yield _piece(part, at, request.sampling, finish if whole else None)
        finally:
            self.live -= 1
            self.broken_off += not whole

    def load_adapter(self, name: str, path: str) -> None:
        if "missing" in path:
            raise ConfigError(f"{path}: there is no adapter")
        self.adapters[name] = path

    def unload_adapter(self, name: str) -> None:
        del self.adapters[name]

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        raise AssertionError("nobody asked for that")

    def close(self) -> None:
        pass


def _piece(ids: list[int], at: int, sampling: Sampling, finish: Any) -> Piece:
    if sampling.logprobs is None:
        return Piece(ids, finish_reason=finish)
    logprobs = [-0.25 * (at + i + 1) for i in range(len(ids))]
    top = [
        {id: p, **{5 + k: p - 1 - k for k in range(sampling.logprobs - 1)}}
        for id, p in zip(ids, logprobs, strict=True)
    ]
    return Piece(ids, logprobs, top if sampling.logprobs else None, finish)
