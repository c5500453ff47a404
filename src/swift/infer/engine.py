"""One door to everything that generates: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from swift.chat.message import Media

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int
    temperature: float = 0.0  # 0: always the most likely
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    repetition_penalty: float = 1.0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """A prompt, and how to go on from it."""

    tokens: list[int]
    sampling: Sampling
    media: tuple[Media, ...] = ()  # in the order in which they stand in the tokens


@dataclass(frozen=True)
class Completion:
    """What was generated; a stop token is included, so that the tokens are those of training."""

    tokens: list[int]
    finish_reason: Finish


class Engine(Protocol):
    """Something that generates."""

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """Answer requests, in their order.

        Args:
            requests: all with the same sampling.
            on_token: told each token of a single request as it comes.

        Raises:
            DataError: a prompt is empty or leaves no room in the model's context.
        """
