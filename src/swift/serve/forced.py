"""A tool that must be called: its name and its arguments generated under a guide.

The opening of a call is put behind the prompt as the checkpoint's template writes it, so the model
stands where it stood in training when it had decided to call; then a guide leaves it only the names
on offer, and behind the name only arguments of that tool's schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from swift.chat.dialect import Calls, Json
from swift.chat.message import Conversation, ToolCall
from swift.chat.render import Renderer
from swift.infer.engine import Ability, Guide, Piece, Request, ServingEngine
from swift.serve.ask import Ask, Step
from swift.serve.refused import Refused, wrong


def check_forced(engine: ServingEngine, renderer: Renderer, asked: Conversation) -> Calls:
    """How calls are written, where one can be forced.

    Raises:
        Refused: the engine has no guides, or the template writes arguments in another form.
    """
    if Ability.GUIDE not in engine.abilities:
        raise Refused(
            400,
            "tool_choice: to force a call needs an engine with guided generation, and this one has "
            "none; auto and none work",
            param="tool_choice",
            code="unsupported_parameter",
        )
    calls = renderer.dialect(asked.template_kwargs).calls
    if calls is None or not isinstance(calls.arguments, Json) or "\ue002" in calls.open:
        raise wrong("tool_choice", "this model's template writes no calls that can be forced")
    return calls


async def force(
    engine: ServingEngine, renderer: Renderer, request: Request, ask: Ask, index: int
) -> AsyncGenerator[Step, None]:
    """One call as one step.

    Raises:
        Refused: see :func:`check_forced`; or the arguments do not fit into ``max_tokens``.
    """
    asked, forced = ask.asked, ask.forced
    assert isinstance(asked, Conversation) and forced is not None
    calls = check_forced(engine, renderer, asked)
    thinking = renderer.dialect(asked.template_kwargs).thinking
    opening = (thinking.none if thinking else "") + calls.start + calls.open
    size, name = 0, forced.names[0]
    if len(forced.names) > 1:
        guide = Guide("choice", forced.names)
        name, size, _ = await _guided(engine, renderer, request, opening, guide)
    schema = _schema(asked, name)
    opening += name + calls.middle
    left = replace(request.sampling, max_tokens=max(1, request.sampling.max_tokens - size))
    text, more, whole = await _guided(
        engine, renderer, replace(request, sampling=left), opening, Guide("json", schema)
    )
    if not whole:
        yield Step(index, size=size + more, finish="length")
        return
    call = ToolCall(name, json.loads(text), f"call_{uuid.uuid4().hex[:24]}")
    yield Step(index, calls=(call,), size=size + more, finish="tool_calls")


def _schema(asked: Conversation, name: str) -> Any:
    functions = [tool["function"] for tool in asked.tools]
    found = next(one for one in functions if one["name"] == name)
    return found.get("parameters") or {"type": "object"}


async def _guided(
    engine: ServingEngine, renderer: Renderer, request: Request, opening: str, guide: Guide
) -> tuple[str, int, bool]:
    """A guided text behind a prompt and an opening: the text, its tokens, whether it is whole."""
    tokens = [*request.tokens, *renderer.tokenizer.encode(opening).ids]
    sampling = replace(request.sampling, guide=guide, logprobs=None)
    stream = cast(
        "AsyncGenerator[Piece, None]",
        engine.stream(replace(request, tokens=tokens, sampling=sampling)),
    )
    made: list[int] = []
    async with aclosing(stream):
        async for piece in stream:
            made += piece.tokens
            if piece.finish_reason == "cancelled":
                raise Refused(503, "the answer was cancelled: the server is ending")
            if piece.finish_reason is not None:
                kept = [id for id in made if id not in sampling.stop_ids]
                whole = piece.finish_reason == "stop"
                return renderer.tokenizer.decode(kept), len(made), whole
    raise Refused(500, "the engine ended without an end of the answer", code="engine")
