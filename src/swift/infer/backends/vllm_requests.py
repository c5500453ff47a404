"""Requests and answers in vLLM's own types. Written against vLLM 0.32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from swift.errors import ConfigError, ServerError, SwiftError
from swift.infer.backends.bad_words import forbidden
from swift.infer.backends.dialects import finish
from swift.infer.engine import Piece, Sampling


def named(error: Exception) -> Exception:
    """An error of vLLM as one of ours."""
    if isinstance(error, SwiftError | TypeError):
        return error
    if isinstance(error, VLLMClientError | ValueError):
        return ConfigError(f"vLLM refuses it: {error}")
    return ServerError(f"vLLM: {error.__cause__ or error!r}")


def params_of(
    s: Sampling, kind: RequestOutputKind, tokenizer: Any, *, biased: bool
) -> SamplingParams:
    """How tokens are chosen, as vLLM is told.

    Raises:
        ConfigError: of bad words, as :func:`swift.infer.backends.bad_words.forbidden`.
    """
    guide = None
    words, biases = forbidden(s.bad_words, tokenizer, biased=biased)
    if s.guide is not None:
        value = list(s.guide.value) if s.guide.kind == "choice" else s.guide.value
        guide = StructuredOutputsParams(**{s.guide.kind: value})
    return SamplingParams(
        max_tokens=s.max_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        repetition_penalty=s.repetition_penalty,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        stop=list(s.stop),
        stop_token_ids=list(s.stop_ids),
        ignore_eos=s.guide is None or bool(s.stop_ids),  # only what the request says ends it
        seed=s.seed,
        logprobs=s.logprobs,
        prompt_logprobs=s.prompt_top if s.prompt_logprobs else None,
        bad_words=words,
        logit_bias={**s.logit_bias, **biases} or None,
        structured_outputs=guide,
        detokenize=bool(s.stop),
        skip_special_tokens=False,
        output_kind=kind,
    )


def piece_of(output: Any, sampling: Sampling) -> Piece:
    """The tokens of a ``RequestOutput``."""
    one, wanted = output.outputs[0], sampling.logprobs
    tokens, rows = list(one.token_ids), one.logprobs or []
    top = [likely(row, wanted) for row in rows] if wanted else None
    logprobs = None if wanted is None else of_tokens(rows, tokens)
    return Piece(tokens, logprobs, top, finish(one.finish_reason))


def likely(row: Any, wanted: int) -> dict[int, float]:
    """The most likely tokens of a row of ``Logprob``."""
    pairs = sorted(((t, p.logprob) for t, p in row.items()), key=lambda pair: -pair[1])
    return dict(pairs[:wanted])


def of_tokens(rows: Iterable[Any], tokens: Iterable[int]) -> list[float]:
    """The log-probabilities of tokens, each in a row of ``Logprob``."""
    return [row[token].logprob for row, token in zip(rows, tokens, strict=True)]
