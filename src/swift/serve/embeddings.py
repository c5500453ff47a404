"""OpenAI's embeddings: wire types, and texts to vectors."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from swift.errors import ConfigError, DataError
from swift.infer.engine import Ability, EmbeddingEngine
from swift.serve.answer import Answerer
from swift.serve.completions import Ids, ManyIds, Texts
from swift.serve.keys import Caller
from swift.serve.refused import Refused, wrong
from swift.serve.service import Service
from swift.serve.wire import Wire


class Request(Wire):
    """The body of ``POST /v1/embeddings``."""

    model: str
    input: str | Ids | Texts | ManyIds
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


async def answer(wire: Request, service: Service, caller: Caller) -> dict[str, Any]:
    """The vectors on the wire, in the order of the texts.

    Raises:
        Refused: the request is not admitted, or the engine cannot do it.
    """
    adapter = service.models.adapter_of(wire.model)
    async with service.gate.enter(caller):
        texts = await asyncio.to_thread(_texts, wire, service.answerer, service.turns)
        engine = cast("EmbeddingEngine", service.answerer.engine)
        try:
            vectors = await asyncio.to_thread(engine.embed, texts, adapter)
        except (ConfigError, DataError) as error:
            raise Refused(400, str(error), code="invalid_request") from None
    if wire.dimensions not in (None, len(vectors[0])):
        raise wrong("dimensions", f"this model's vectors have {len(vectors[0])}, and are not cut")
    size = sum(map(len, texts))
    service.gate.spend(caller, size)
    service.metrics.prompt.labels(wire.model).inc(size)
    packed = wire.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(v) if packed else v}
        for i, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": size, "total_tokens": size}
    return {"object": "list", "data": data, "model": wire.model, "usage": usage}


def _texts(wire: Request, answerer: Answerer, turns: bool) -> list[list[int]]:
    """Tokens of every text: as a user's turn, or with what the tokenizer puts around one."""
    if Ability.EMBEDDINGS not in answerer.engine.abilities:
        raise Refused(400, f"the server's engine has no {Ability.EMBEDDINGS}", code="unsupported")
    given: Any = wire.input
    several = not isinstance(given, str) and not isinstance(given[0], int)
    texts = [_ids(text, answerer, turns) for text in (given if several else [given])]
    context = answerer.engine.context
    for index, text in enumerate(texts):
        place = f"input[{index}]" if several else "input"
        if not text:
            raise wrong(place, "is empty")
        if context is not None and len(text) > context:
            why = f"takes {len(text)} tokens, the model's context holds {context}"
            raise wrong(place, why, "context_length_exceeded")
    return texts


def _ids(text: str | list[int], answerer: Answerer, turns: bool) -> list[int]:
    tokenizer = answerer.renderer.tokenizer
    if isinstance(text, str) and turns:
        return answerer.turn(text) if text else []
    if isinstance(text, str):
        return list(tokenizer.encode(text, specials=True).ids)
    if max(text) >= tokenizer.size:
        raise wrong("input", f"a token id is not below {tokenizer.size}, the vocabulary's size")
    return text


def _base64(vector: Sequence[float]) -> str:
    """Float32, the least byte first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
