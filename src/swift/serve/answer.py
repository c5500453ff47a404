"""The one path of every request: asked -> prompt -> engine -> steps of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.errors import ConfigError, DataError
from swift.infer.engine import Completion, Piece, Request, ServingEngine, check
from swift.serve.ask import Ask, Step
from swift.serve.forced import check_forced, force
from swift.serve.reader import PlainParser, Reader
from swift.serve.refused import Refused


@dataclass(frozen=True)
class Plan:
    """A request as an engine sees it: a prompt for each answer, and how the answer is read."""

    requests: tuple[Request, ...]
    given: tuple[int, ...]  # the beginning of the answer, at the end of the prompt
    shown: bool  # the beginning is part of the answer that is sent
    ask: Ask  # with the conversation as it was rendered

    @property
    def prompt_size(self) -> int:
        """Tokens of all prompts; one that is answered several times counts once."""
        return sum(len(request.tokens) for request in self.requests[:: self.ask.count])


class Answerer:
    """Answers requests with one renderer and one engine; many at once."""

    def __init__(self, renderer: Renderer, engine: ServingEngine, system: str | None) -> None:
        self.renderer = renderer
        self.engine = engine
        self._system = system

    def plan(self, ask: Ask, adapter: str | None) -> Plan:
        """Render the prompts of a request. Takes time: not for the event loop.

        Raises:
            Refused: the conversation cannot be rendered, the prompt is too long, or the engine
                cannot do what is asked.
        """
        try:
            plan = self._plan(ask, adapter)
        except DataError as error:
            raise Refused(400, str(error), code="invalid_prompt") from None
        context = self.engine.context
        for request in plan.requests:
            if not request.tokens:
                raise Refused(400, "the prompt is empty", code="invalid_prompt")
            if context is not None and len(request.tokens) >= context:
                raise Refused(
                    400,
                    f"the prompt takes {len(request.tokens)} tokens, the model's context holds "
                    f"{context}",
                    code="context_length_exceeded",
                )
        try:
            check(self.engine.abilities, plan.requests, "server's")
        except ConfigError as error:
            raise Refused(400, str(error), code="unsupported_parameter") from None
        return plan

    def _plan(self, ask: Ask, adapter: str | None) -> Plan:
        stop_ids = tuple(sorted({*self.renderer.stop_ids, *ask.stop_ids}))
        sampling = replace(ask.sampling, stop=(), stop_ids=stop_ids)
        if not isinstance(ask.asked, Conversation):
            prompts = [self._ids(prompt) for prompt in ask.asked]
            requests = [Request(ids, sampling, adapter=adapter) for ids in prompts]
            return Plan(_repeated(requests, ask), (), False, ask)
        asked = self._switched(self._led(ask.asked))
        tokens = self.renderer.prompt(asked.messages, asked.tools, asked.template_kwargs)
        given = self.renderer.given(asked.messages, asked.tools, asked.template_kwargs)
        own = bool(asked.messages and asked.messages[-1].prefix)
        shown = not own
        if ask.forced is not None:
            check_forced(self.engine, self.renderer, asked)
        elif sampling.guide is not None and not given:
            given, shown = self._unthought(asked), False
            tokens = [*tokens, *given]
        request = Request(tokens, sampling, asked.media, adapter)
        return Plan(_repeated([request], ask), tuple(given), shown, replace(ask, asked=asked))

    def tokens(self, ask: Ask) -> list[int]:
        """The tokens of the first prompt of a request. Takes time: not for the event loop.

        Raises:
            Refused: it cannot be rendered.
        """
        try:
            return self._plan(ask, None).requests[0].tokens
        except DataError as error:
            raise Refused(400, str(error), code="invalid_prompt") from None

    def turn(self, text: str) -> list[int]:
        """The tokens of a text as a user's turn, up to where an answer would begin."""
        asked = self._led(Conversation((Message("user", text),)))
        return self.renderer.prompt(asked.messages, asked.tools, asked.template_kwargs)

    def _led(self, asked: Conversation) -> Conversation:
        """With the system prompt of the server where the request has none."""
        first = asked.messages[0].role if asked.messages else ""
        if self._system is None or first in ("system", "developer"):
            return asked
        return replace(asked, messages=(Message("system", self._system), *asked.messages))

    def _switched(self, asked: Conversation) -> Conversation:
        """With switches that the template knows alone, of few values: each is remembered.

        A thinking that is switched off where there is none needs no switch.
        """
        known, kwargs = self.renderer.switches, dict(asked.template_kwargs)
        if kwargs.get("enable_thinking") is False and "enable_thinking" not in known:
            thinking = self.renderer.dialect().thinking
            kwargs = {} if thinking is None and len(kwargs) == 1 else kwargs
        for name, value in kwargs.items():
            if name not in known:
                can = f"; it reads {', '.join(sorted(known))}" if known else ""
                raise Refused(
                    400,
                    f"chat_template_kwargs.{name}: the chat template does not read it{can}",
                    param=f"chat_template_kwargs.{name}",
                    code="unknown_parameter",
                )
            if not (isinstance(value, bool) or value in ("low", "medium", "high")):
                raise Refused(
                    400,
                    f"chat_template_kwargs.{name}: should be true, false, low, medium or high",
                    param=f"chat_template_kwargs.{name}",
                    code="invalid_value",
                )
        return replace(asked, template_kwargs=kwargs)

    def _unthought(self, asked: Conversation) -> list[int]:
        """What stands in front of an answer without thinking: a guided text begins at once.

        Raises:
            Refused: the template lets every answer think, so a guide would shape the thinking.
        """
        thinking = self.renderer.dialect(asked.template_kwargs).thinking
        if thinking is None:
            return []
        if not thinking.before.strip() and not thinking.none.strip():
            raise Refused(
                400,
                "response_format: this model's prompts open a thinking, which a guide would shape; "
                "switch it off (chat_template_kwargs) where the template can",
                param="response_format",
                code="unsupported_parameter",
            )
        return self.renderer.tokenizer.encode(thinking.none).ids

    def _ids(self, prompt: str | list[int]) -> list[int]:
        """Ids of a prompt without a template, with what the tokenizer puts in front of a text."""
        tokenizer = self.renderer.tokenizer
        if isinstance(prompt, str):
            ids = tokenizer.encode(prompt, specials=True).ids
            plain = tokenizer.encode(prompt).ids
            while ids and ids[-1] in self.renderer.stop_ids and plain[-1:] != ids[-1:]:
                ids = ids[:-1]
            return list(ids)
        if any(id >= tokenizer.size for id in prompt):
            raise DataError(f"a token id is not below {tokenizer.size}, the vocabulary's size")
        return prompt

    async def run(self, plan: Plan) -> AsyncGenerator[Step, None]:
        """The steps of every answer as they come. Closing it ends the generation.

        Raises:
            Refused: an engine cannot go on.
        """
        if plan.ask.forced is not None:
            streams = [
                force(self.engine, self.renderer, request, plan.ask, index)
                for index, request in enumerate(plan.requests)
            ]
        else:
            streams = [self._one(plan, index) for index in range(len(plan.requests))]
        merged = streams[0] if len(streams) == 1 else _merged(streams)
        async with aclosing(merged):
            try:
                async for step in merged:
                    yield step
            except (DataError, ConfigError) as error:
                raise Refused(400, str(error), code="invalid_request") from None

    async def _one(self, plan: Plan, index: int) -> AsyncGenerator[Step, None]:
        request = plan.requests[index]
        reader = self._reader(plan, index)
        if plan.given and plan.shown:
            yield reader.show(plan.given)
        else:
            reader.skip(plan.given)
        if request.sampling.prompt_logprobs:  # which no engine streams
            [whole] = await asyncio.to_thread(self.engine.generate, [request])
            piece = Piece(whole.tokens, whole.logprobs, whole.top_logprobs, whole.finish_reason)
            yield replace(reader.read(piece), read=_believed(request, whole))
            return
        stream = pieces_of(self.engine, request)
        async with aclosing(stream):
            async for piece in stream:
                step = reader.read(piece)
                yield step
                if reader.done:
                    return
        raise Refused(500, "the engine ended without an end of the answer", code="engine")

    def _reader(self, plan: Plan, index: int) -> Reader:
        ask, asked = plan.ask, plan.ask.asked
        stop_ids = plan.requests[index].sampling.stop_ids
        parser: Any = PlainParser(self.renderer.tokenizer.stream(), stop_ids)
        if isinstance(asked, Conversation):
            parser = self.renderer.parser(asked.template_kwargs, calls=bool(asked.tools))
        stop = ask.sampling.stop
        return Reader(index, self.renderer.tokenizer, parser, stop, stop_ids, ask.one_call)


def pieces_of(engine: ServingEngine, request: Request) -> AsyncGenerator[Piece, None]:
    """An engine's stream as what it is: something that can be closed."""
    return cast("AsyncGenerator[Piece, None]", engine.stream(request))


def _believed(request: Request, whole: Completion) -> tuple[dict[int, float], ...]:
    """What the model believed of every token of a prompt but the first, and of others there."""
    own = zip(request.tokens[1:], whole.prompt_logprobs or [], strict=True)
    rows = [{token: logprob} for token, logprob in own]
    others: list[dict[int, float]] = whole.prompt_top or [{} for _ in rows]
    return tuple({**row, **top} for row, top in zip(rows, others, strict=True))


def _repeated(requests: Sequence[Request], ask: Ask) -> tuple[Request, ...]:
    """Every prompt as often as it is to be answered; with a seed, each with a seed of its own."""
    seed = ask.sampling.seed
    return tuple(
        request
        if seed is None
        else replace(request, sampling=replace(request.sampling, seed=seed + number))
        for request in requests
        for number in range(ask.count)
    )


async def _merged(streams: Sequence[AsyncGenerator[Step, None]]) -> AsyncGenerator[Step, None]:
    """Steps of several answers as they come; where one fails or the reader goes, all end."""
    queue: asyncio.Queue[Step | BaseException | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(stream: AsyncIterator[Step]) -> None:
        try:
            async with aclosing(cast("AsyncGenerator[Step, None]", stream)):
                async for step in stream:
                    await queue.put(step)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
