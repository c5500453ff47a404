"""The dialects of servers with a route ``/generate``: SGLang's, and LMDeploy's, which follows it.

Written against SGLang 0.5.23 (srt/managers/io_struct.py, srt/sampling/sampling_params.py,
srt/managers/tokenizer_manager.py) and LMDeploy 0.18.0 (serve/openai/endpoints/generate.py).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from swift.errors import ServerError
from swift.infer.backends.dialects import Body, Dialect, finish, member
from swift.infer.engine import Ability, Guide, Piece, Request, Sampling


def _chosen(s: Sampling) -> Body:
    """What both call by the same names."""
    return {
        "temperature": s.temperature,
        "top_p": s.top_p,
        "min_p": s.min_p,
        "repetition_penalty": s.repetition_penalty,
        "stop_token_ids": list(s.stop_ids),
        "ignore_eos": not s.stop_ids and s.guide is None,  # else it ignores stop ids too
        "skip_special_tokens": False,
    }


def _told(s: Sampling) -> Body:
    wanted = s.logprobs is not None or s.prompt_logprobs
    return {"return_logprob": True, "top_logprobs_num": s.logprobs or 0} if wanted else {}


def _sglang_ask(request: Request, _: str, stream: bool) -> Body:
    s = request.sampling
    chosen: Body = _chosen(s) | {
        "max_new_tokens": s.max_tokens,
        "top_k": s.top_k or -1,
        "presence_penalty": s.presence_penalty,
        "frequency_penalty": s.frequency_penalty,
        "stop": list(s.stop),
        "no_stop_trim": True,
    }
    chosen |= _sglang_guide(s.guide) if s.guide is not None else {}
    if s.logit_bias:
        chosen["logit_bias"] = {str(token): bias for token, bias in s.logit_bias.items()}
    if s.seed is not None:
        chosen["sampling_seed"] = s.seed
    body: Body = {"input_ids": request.tokens, "sampling_params": chosen, "stream": stream}
    body |= _told(s)
    if s.prompt_logprobs:
        body["logprob_start_len"] = 0
    if request.adapter is not None:
        body["lora_path"] = request.adapter  # its name, once it is loaded
    return body


def _sglang_guide(guide: Guide) -> Body:
    if guide.kind == "choice":  # it has none: a grammar of texts
        words = (json.dumps(word, ensure_ascii=False) for word in guide.value)
        return {"ebnf": "root ::= " + " | ".join(words)}
    name = {"json": "json_schema", "regex": "regex", "grammar": "ebnf"}[guide.kind]
    return {name: guide.value if isinstance(guide.value, str) else json.dumps(guide.value)}


def _sglang_cannot(request: Request) -> str | None:
    """Its repetition penalty knows the answer alone; its logprobs are those of what it drew from,
    but for the cuts (srt/layers/sampler.py); other seeds than the server's need the deterministic
    mode.
    """
    s = request.sampling
    if s.seed is not None:
        return "takes a seed with --sglang_deterministic true alone"
    return _sglang_cannot_ever(request)


def _sglang_cannot_ever(request: Request) -> str | None:
    s = request.sampling
    if s.repetition_penalty != 1:
        return "has no repetition_penalty that counts the prompt; ask for frequency_penalty"
    if s.logprobs is None and not s.prompt_logprobs:
        return None
    if s.temperature not in (0, 1):
        return "gives logprobs at temperature 0 or 1 alone"
    if s.presence_penalty or s.frequency_penalty or s.logit_bias or s.guide is not None:
        return "gives no logprobs beside penalties, logit_bias or a guide"
    return None


def _lmdeploy_ask(request: Request, _: str, stream: bool) -> Body:
    """All is sent: what is left out, a generation_config.json beside the model decides."""
    s = request.sampling
    body: Body = _chosen(s) | {
        "input_ids": request.tokens,
        "stream": stream,
        "max_tokens": s.max_tokens,
        "top_k": s.top_k,
        "include_stop_str_in_output": True,  # the stop token, too
    }
    return body | _told(s)


def _lmdeploy_cannot(request: Request) -> str | None:
    """It draws a seed itself, and ends at every token that contains a stop text."""
    s = request.sampling
    if s.seed is not None:
        return "takes no seed with token ids"
    if s.stop:
        return "has no stop texts of more than one token; give stop_ids"
    return "takes no temperature above 2" if s.temperature > 2 else None


def _hear(answer: Any, request: Request, seen: int) -> Piece:
    """Of a server that repeats all tokens in every event, or sends what is new alone."""
    meta, tokens = member(answer, "meta_info"), member(answer, "output_ids") or []
    reason = meta.get("finish_reason") or {}
    if int(reason.get("status_code") or 0) >= 400:
        raise ServerError(f"the server gave up an answer: {reason.get('message')}")
    fresh = int(member(meta, "completion_tokens")) - seen
    if not 0 <= fresh <= len(tokens):
        raise ServerError(f"the server counts {seen + fresh} tokens and sent {seen + len(tokens)}")
    wanted = request.sampling.logprobs
    logprobs = top = None
    if wanted is not None:
        rows = _last(meta.get("output_token_logprobs"), fresh)
        logprobs = [float(row[0]) for row in rows]
    if wanted:
        tops = _last(meta.get("output_top_logprobs"), fresh)
        top = [{int(pair[1]): float(pair[0]) for pair in row[:wanted]} for row in tops]
    ids = [int(token) for token in _last(tokens, fresh)]
    return Piece(ids, logprobs, top, finish(reason.get("type")))


def _last(rows: list[Any] | None, count: int) -> list[Any]:
    return (rows or [])[-count:] if count else []


def _prompt(answer: Any) -> list[float]:
    rows = member(member(answer, "meta_info"), "input_token_logprobs")
    return [float(row[0]) for row in rows[1:]]


def _no_prompt(_: Any) -> list[float]:
    raise AssertionError("refused before it is asked")


SGLANG = Dialect(
    "sglang",
    frozenset(
        {
            Ability.IDS, Ability.STREAM, Ability.LOGPROBS, Ability.PROMPT_LOGPROBS, Ability.GUIDE,
            Ability.PENALTIES, Ability.MIN_P, Ability.LOGIT_BIAS, Ability.ADAPTERS,
        }
    ),
    "/generate",
    _sglang_ask,
    _hear,
    _prompt,
    lambda name, path: ("/load_lora_adapter", {"lora_name": name, "lora_path": path}),
    lambda name: ("/unload_lora_adapter", {"lora_name": name}),
    _sglang_cannot,
)  # fmt: skip
SGLANG_DETERMINISTIC = replace(SGLANG, cannot=_sglang_cannot_ever)
LMDEPLOY = Dialect(
    "lmdeploy",
    frozenset({Ability.IDS, Ability.STREAM, Ability.LOGPROBS, Ability.MIN_P}),
    "/generate",
    _lmdeploy_ask,
    _hear,
    _no_prompt,
    None,
    None,
    _lmdeploy_cannot,
)
"""No guides: its ``/generate`` has none. Its adapters are given when it starts."""
