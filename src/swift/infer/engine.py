"""One door to everything that generates: token ids in, token ids out.

An engine says what it can do (:class:`Ability`); :func:`check` refuses what it cannot before
anything is sent, so no part of a request is ever ignored in silence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from swift.chat.message import Media
from swift.errors import ConfigError

Finish = Literal["stop", "length", "cancelled"]


class Ability(StrEnum):
    """What an engine may be able to do beyond choosing tokens from ids."""

    IDS = "token ids"  # takes and returns ids; else only text, and nothing is proven of tokens
    STREAM = "streaming"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    PROMPT_TOP = "prompt_logprobs of other tokens"
    GUIDE = "guided generation"
    MEDIA = "media"
    PENALTIES = "penalties"
    MIN_P = "min_p"
    BAD_WORDS = "bad_words"
    LOGIT_BIAS = "logit_bias"
    ADAPTERS = "adapters loaded at run time"
    WEIGHTS = "new weights at run time"
    PAUSE = "pause"
    SLEEP = "sleep"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Guide:
    """What a text must look like: a JSON schema, a regular expression, an EBNF grammar or choices.

    ``value`` is the schema as a dict, the expression or grammar as text, the choices as a tuple.
    """

    kind: Literal["json", "regex", "grammar", "choice"]
    value: Any


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int
    temperature: float = 0.0  # 0: always the most likely
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # of the most likely token's probability (arXiv:2407.01082)
    repetition_penalty: float = 1.0  # 1: none (arXiv:1909.05858)
    presence_penalty: float = 0.0  # subtracted from logits of generated tokens, once each
    frequency_penalty: float = 0.0  # the same, for every time
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that never come
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None  # None: none; 0: of the chosen tokens; k: also the k most likely
    prompt_logprobs: bool = False
    guide: Guide | None = None
    prompt_top: int = 0  # with prompt_logprobs: also the k most likely tokens there


@dataclass(frozen=True)
class Request:
    """A prompt, and how to go on from it. Several answers are several requests."""

    tokens: list[int]
    sampling: Sampling
    media: tuple[Media, ...] = ()  # in the order in which they stand in the tokens
    adapter: str | None = None  # name of a loaded adapter; None: the model itself


@dataclass(frozen=True)
class Completion:
    """What was generated; a stop token is included, so that the tokens are those of training.

    Log-probabilities are natural logarithms under temperature 1 and without top-p, top-k or
    penalties: what the model itself believes.
    """

    tokens: list[int]
    finish_reason: Finish
    logprobs: list[float] | None = None  # of every token
    top_logprobs: list[dict[int, float]] | None = None  # the most likely ones at every token
    prompt_logprobs: list[float] | None = None  # of every prompt token but the first
    drawn_logprobs: list[float] | None = None  # as logprobs, but of what was drawn from: with
    # temperature, cuts and penalties; None where the engine does not say, or nothing was drawn
    prompt_top: list[dict[int, float]] | None = None  # the most likely ones at each prompt token


@dataclass(frozen=True)
class Piece:
    """One or more tokens of a completion as they come; the last one says why it ended."""

    tokens: list[int]
    logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None
    finish_reason: Finish | None = None


class Engine(Protocol):
    """Something that generates."""

    abilities: frozenset[Ability]
    context: int | None  # most tokens of prompt and answer together; None: no limit is known

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """Answer requests, in their order; samplings and adapters may differ.

        Args:
            requests: what to answer.
            on_token: told each token of a single request as it comes.

        Raises:
            ConfigError: a request needs an ability that the engine lacks.
            DataError: a prompt is empty or leaves no room in the model's context.
        """


class ServingEngine(Engine, Protocol):
    """An engine that many callers use at once."""

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """The pieces of one answer as they come; closing the iterator ends the generation."""

    def load_adapter(self, name: str, path: str) -> None:
        """Make an adapter ready under a name; :class:`ConfigError` where it does not fit."""

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter once no request uses it."""

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Take new weights as (name, tensor); what is cached of the old ones is forgotten."""

    def close(self) -> None:
        """End everything that runs; requests under way end as ``cancelled``."""


class RestingEngine(ServingEngine, Protocol):
    """An engine that can stand still (:attr:`Ability.PAUSE`) and give back its memory
    (:attr:`Ability.SLEEP`).
    """

    def pause(self) -> None:
        """Stop after the running step: answers wait, and so do new requests."""

    def resume(self) -> None:
        """Go on after :meth:`pause`."""

    def sleep(self) -> None:
        """End the answers under way, and give back the device's memory; :class:`ConfigError` where
        the engine cannot.
        """

    def wake(self) -> None:
        """Take the memory again, with the weights as they were."""


class EmbeddingEngine(ServingEngine, Protocol):
    """An engine that also makes vectors of texts (:attr:`Ability.EMBEDDINGS`)."""

    def embed(
        self, texts: Sequence[Sequence[int]], adapter: str | None = None
    ) -> list[list[float]]:
        """A vector of unit length for the tokens of each text."""


def needs(request: Request) -> frozenset[Ability]:
    """What a request asks of an engine."""
    s = request.sampling
    asked = {
        Ability.LOGPROBS: s.logprobs is not None,
        Ability.PROMPT_LOGPROBS: s.prompt_logprobs,
        Ability.PROMPT_TOP: s.prompt_top > 0,
        Ability.GUIDE: s.guide is not None,
        Ability.MEDIA: bool(request.media),
        Ability.PENALTIES: (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
        != (1.0, 0.0, 0.0),
        Ability.MIN_P: s.min_p > 0,
        Ability.BAD_WORDS: bool(s.bad_words),
        Ability.LOGIT_BIAS: bool(s.logit_bias),
        Ability.ADAPTERS: request.adapter is not None,
    }
    return frozenset(ability for ability, wanted in asked.items() if wanted)


def check(abilities: frozenset[Ability], requests: Iterable[Request], engine: str) -> None:
    """Refuse what an engine cannot do.

    Raises:
        ConfigError: one line for each ability that is missing.
    """
    missing = sorted({ability for request in requests for ability in needs(request) - abilities})
    if missing:
        raise ConfigError(*(f"the {engine} engine has no {ability}" for ability in missing))
