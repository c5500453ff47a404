"""How each inference server wants to be asked with token ids, and how it answers.

One entry a server, written against its own source. A server ignores in silence what it does not
know; so an ability stands here only where the field that asks for it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swift.errors import ServerError
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


_COMMON = frozenset(
    {
        Ability.IDS, Ability.STREAM, Ability.LOGPROBS, Ability.PROMPT_LOGPROBS, Ability.GUIDE,
        Ability.PENALTIES, Ability.MIN_P, Ability.LOGIT_BIAS, Ability.ADAPTERS,
    }
)  # fmt: skip
"""No bad words: servers take texts there, whose tokens are not known to be the ones asked for."""


def _vllm_ask(request: Request, model: str, stream: bool) -> Body:
    """``CompletionRequest`` of vllm/entrypoints/openai/completion/protocol.py."""
    s = request.sampling
    body: Body = {
        "model": request.adapter or model,
        "prompt": request.tokens,
        "stream": stream,
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
        "add_special_tokens": False,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    optional: Body = {
        "seed": s.seed,
        "logprobs": s.logprobs,
        "logit_bias": {str(token): bias for token, bias in s.logit_bias.items()} or None,
        "prompt_logprobs": 0 if s.prompt_logprobs else None,
        "structured_outputs": s.guide and {s.guide.kind: s.guide.value},
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _vllm_hear(answer: Any, request: Request, _: int) -> Piece:
    choice = member(member(answer, "choices"), 0)
    wanted, logs = request.sampling.logprobs, choice.get("logprobs") or {}
    tokens = member(choice, "token_ids") or []
    top = [_ids(row, wanted) for row in logs.get("top_logprobs") or []] if wanted else None
    return Piece(
        [int(token) for token in tokens],
        None if wanted is None else [float(x) for x in logs.get("token_logprobs") or []],
        top,
        finish(choice.get("finish_reason")),
    )


def _ids(row: Mapping[str, float], count: int | None) -> dict[int, float]:
    """``token_id:5`` -> 5; the most likely ones, without the chosen where that is none of them."""
    found = {int(name.removeprefix("token_id:")): float(value) for name, value in row.items()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:count])


def _vllm_prompt(answer: Any) -> list[float]:
    rows = member(member(member(answer, "choices"), 0), "prompt_logprobs")
    tokens = member(member(member(answer, "choices"), 0), "prompt_token_ids")
    return [float(row[str(t)]["logprob"]) for row, t in zip(rows[1:], tokens[1:], strict=True)]


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
    _COMMON,
    "/v1/completions",
    _vllm_ask,
    _vllm_hear,
    _vllm_prompt,
    lambda name, path: ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}),
    lambda name: ("/v1/unload_lora_adapter", {"lora_name": name}),
)
