"""An engine that says what it is told, and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swift.infer.engine import Ability, Completion, Request


class Stub:
    """Answers by a function of the request; ``abilities`` as a full engine has them."""

    def __init__(self, answer: Callable[[Request], Completion], context: int | None = None) -> None:
        self._answer = answer
        self.abilities = frozenset({Ability.IDS, Ability.LOGPROBS, Ability.MIN_P})
        self.context = context
        self.requests: list[Request] = []

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        self.requests += requests
        return [self._answer(request) for request in requests]
