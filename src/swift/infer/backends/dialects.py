"""How each inference server wants to be asked with token ids, and how it answers.

One entry a server, written against its own source. A server ignores in silence what it does not
know; so an ability stands here only where the field that asks for it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swift.errors import ServerError
from swift.infer.backends.pictures import laid_in
from swift.infer.engine import Ability, Finish, Piece, Request

Body = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """One kind of server."""

    name: str
    abilities: frozenset[Ability]
    path: str  # where requests go
    ask: Callable[[Request, str, bool], Body]  # request, model's name, streamed -> JSON
    hear: Callable[[Any, Request, int], Piece]  # an answer, or what is new after so many tokens
    prompt_logprobs: Callable[[Any], list[float]]  # of a whole answer
    load: Callable[[str, str], tuple[str, Body]] | None  # adapter's name and path -> route, JSON
    unload: Callable[[str], tuple[str, Body]] | None
    cannot: Callable[[Request], str | None] = lambda _: None  # what no ability says, as words
    prompt_top: Callable[[Any, int], list[dict[int, float]]] | None = None  # so many of each row


_VLLM = frozenset(
    {
        Ability.IDS, Ability.STREAM, Ability.LOGPROBS, Ability.PROMPT_LOGPROBS, Ability.GUIDE,
        Ability.PENALTIES, Ability.MIN_P, Ability.LOGIT_BIAS, Ability.ADAPTERS, Ability.PROMPT_TOP,
    }
)  # fmt: skip
"""Media and bad words need the checkpoint's processor and tokenizer: see vllm.py."""
_FLOOR = -9999.0
"""What vLLM writes for minus infinity, which JSON does not have; with no rank, for no number."""


def _vllm_ask(request: Request, model: str, stream: bool) -> Body:
    """``GenerateRequest`` of vllm/entrypoints/scale_out/token_in_token_out/protocol.py."""
    s = request.sampling
    sampling: Body = {
        "max_tokens": s.max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "top_k": s.top_k,
        "min_p": s.min_p,
        "repetition_penalty": s.repetition_penalty,
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "stop": list(s.stop),
        "stop_token_ids": list(s.stop_ids),
        "ignore_eos": s.guide is None or bool(s.stop_ids),  # only what the request says ends it
        "detokenize": bool(s.stop),
        "skip_special_tokens": False,
    }
    optional: Body = {
        "seed": s.seed,
        "logprobs": s.logprobs and s.logprobs + 1,  # it counts the chosen one among them
        "logit_bias": {str(token): bias for token, bias in s.logit_bias.items()} or None,
        "prompt_logprobs": s.prompt_top if s.prompt_logprobs else None,
        "structured_outputs": s.guide and {s.guide.kind: s.guide.value},
    }
    sampling |= {name: value for name, value in optional.items() if value is not None}
    body: Body = {"model": request.adapter or model, "token_ids": request.tokens, "stream": stream}
    told = {"return_token_ids": True} if request.media or s.prompt_logprobs else {}
    return {**body, "sampling_params": sampling, **told}


def _vllm_hear(answer: Any, request: Request, seen: int) -> Piece:
    choice = member(member(answer, "choices"), 0)
    tokens = [int(token) for token in member(choice, "token_ids") or []]
    if request.media and not seen:
        laid_in(member(answer, "prompt_token_ids"), request)
    wanted, logprobs, top = request.sampling.logprobs, None, None
    if wanted is not None:
        rows = (choice.get("logprobs") or {}).get("content") or []
        logprobs = [_logprob(row) for row in rows]
        top = [_likely(row, wanted) for row in rows] if wanted else None
    return Piece(tokens, logprobs, top, finish(choice.get("finish_reason")))


def _logprob(entry: Any) -> float:
    value = float(member(entry, "logprob"))
    if value > _FLOOR:
        return value
    if entry.get("rank") is None:
        raise ServerError(
            f"vLLM knows no log-probability of the token {member(entry, 'token_id')}: its logits "
            "are no numbers"
        )
    return -math.inf


def _likely(row: Any, count: int) -> dict[int, float]:
    """The most likely ones, without the chosen where that is none of them."""
    found = {int(member(e, "token_id")): _logprob(e) for e in row.get("top_logprobs") or []}
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:count])


def _vllm_prompt(answer: Any) -> list[float]:
    tokens = member(answer, "prompt_token_ids")
    rows = zip(_prompt_rows(answer), tokens[1:], strict=True)
    return [_logprob(member(row, str(token))) for row, token in rows]


def _vllm_prompt_top(answer: Any, count: int) -> list[dict[int, float]]:
    found = [{int(t): _logprob(entry) for t, entry in row.items()} for row in _prompt_rows(answer)]
    return [dict(sorted(row.items(), key=lambda pair: -pair[1])[:count]) for row in found]


def _prompt_rows(answer: Any) -> list[Any]:
    """For every token of a prompt but the first: tokens there, its own among them."""
    rows = member(answer, "prompt_logprobs")
    if rows is None:
        raise ServerError("vLLM tells no log-probabilities of the prompt")
    return list(rows[1:])


def finish(reason: Any) -> Finish | None:
    """A server's reason for the end of an answer."""
    known: dict[Any, Finish] = {"stop": "stop", "eos": "stop", "length": "length"}
    if reason is None:
        return None
    return known.get(reason, "cancelled")


def member(value: Any, key: Any) -> Any:
    """One part of an answer.

    Raises:
        ServerError: it is not there.
    """
    try:
        return value[key]
    except (KeyError, IndexError, TypeError):
        raise ServerError(
            f"the server's answer has no {key!r}: {str(value)[:120]} (is it another kind of "
            "server, or an older one?)"
        ) from None


VLLM = Dialect(
    "vllm",
    _VLLM,
    "/inference/v1/generate",
    _vllm_ask,
    _vllm_hear,
    _vllm_prompt,
    lambda name, path: ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}),
    lambda name: ("/v1/unload_lora_adapter", {"lora_name": name}),
    prompt_top=_vllm_prompt_top,
)
