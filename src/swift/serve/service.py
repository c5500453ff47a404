"""One request from its admission to its last token, with what is counted and recorded of it."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from swift.chat.message import Conversation
from swift.observe.log import Log
from swift.serve.answer import Answerer, Plan
from swift.serve.ask import Answer, Ask, Step, Usage
from swift.serve.fetch import Fetcher
from swift.serve.keys import Caller
from swift.serve.limits import Gate
from swift.serve.metrics import Metrics
from swift.serve.models import Models
from swift.serve.record import Recorder
from swift.serve.refused import Refused
from swift.serve.timer import Timer
from swift.serve.wire import Defaults

_SHORT = 1 << 13  # characters, or token ids

Result = TypeVar("Result")


@dataclass
class Exchange:
    """A request and what became of it."""

    id: str
    ask: Ask
    caller: Caller
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None
    prompt: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            self.prompt,
            sum(answer.size for answer in self.answers),
            sum(answer.thought for answer in self.answers),
        )

    def add(self, step: Step) -> None:
        """Take in a step."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self.began_s
        self.answers[step.index].add(step)


@dataclass(frozen=True)
class Service:
    """Everything that answers."""

    answerer: Answerer
    models: Models
    gate: Gate
    metrics: Metrics
    defaults: Defaults
    deadline_s: float
    log: Log
    verbose: bool = True
    recorder: Recorder | None = None
    adapter_loading: bool = False  # by every key
    fetcher: Fetcher | None = None
    turns: bool = False  # texts for vectors are read as a user's turn

    @property
    def tokens(self) -> float:
        """Tokens of all answers so far."""
        return sum(
            sample.value
            for metric in self.metrics.answer.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    async def steps(self, exchange: Exchange) -> AsyncGenerator[Step, None]:
        """The steps of a request. Closing it frees its place and ends the generation.

        Raises:
            Refused: it is not admitted, cannot be answered, or takes too long.
        """
        ask = exchange.ask
        adapter = self.models.adapter_of(ask.model)
        many = 1 if not isinstance(ask.asked, tuple) else len(ask.asked)
        exchange.answers = [Answer() for _ in range(many * ask.count)]
        end = "gone"
        async with self.gate.enter(exchange.caller, many * ask.count):
            try:
                with closing(Timer()) as timer:
                    within = partial(self._within, timer, exchange)
                    ask = await within(self.fetched(ask))
                    plan = await within(self._planned(ask, adapter))
                    exchange.prompt, exchange.ask = plan.prompt_size, plan.ask
                    async with aclosing(self.answerer.run(plan)) as steps:
                        while (step := await within(anext(steps, None))) is not None:
                            exchange.add(step)
                            yield step
                end = exchange.answers[0].finish
                await self._record(exchange)
            except Refused:
                end = "error"
                raise
            except Exception as error:
                end = "error"
                self.log.warn(f"{exchange.id}: {''.join(traceback.format_exception(error))}")
                raise Refused(
                    500, "the engine failed; another request may work", code="engine"
                ) from None
            finally:
                self._count(exchange, end)

    async def _planned(self, ask: Ask, adapter: str | None) -> Plan:
        if is_short(ask):  # it takes less time than handing it to a thread
            return self.answerer.plan(ask, adapter)
        return await asyncio.to_thread(self.answerer.plan, ask, adapter)

    async def fetched(self, ask: Ask) -> Ask:
        """A request with media in place of their addresses.

        Raises:
            Refused: one cannot be had.
        """
        if self.fetcher is None or not isinstance(ask.asked, Conversation):
            return ask
        return replace(ask, asked=await self.fetcher(ask.asked))

    async def _record(self, exchange: Exchange) -> None:
        """Keep an answer; one that cannot be kept (a full disk, say) is still an answer."""
        if self.recorder is None:
            return
        try:
            await asyncio.to_thread(self.recorder.keep, exchange)
        except Exception as error:
            self.log.warn(f"{exchange.id} was not recorded: {error!r}")

    async def _within(self, timer: Timer, exchange: Exchange, work: Awaitable[Result]) -> Result:
        """The result of a part of a request, within the deadline of all of it."""
        try:
            return await timer.wait(work, exchange.began_s + self.deadline_s)
        except TimeoutError:
            if not timer.rang:
                raise
        raise Refused(
            504, f"the answer takes longer than {self.deadline_s:g} s", code="deadline_exceeded"
        )

    def _count(self, exchange: Exchange, end: str) -> None:
        usage, model = exchange.usage, exchange.ask.model
        took = time.monotonic() - exchange.began_s
        self.gate.spend(exchange.caller, usage.total)
        self.metrics.ended.labels(model, end).inc()
        self.metrics.prompt.labels(model).inc(usage.prompt)
        self.metrics.answer.labels(model).inc(usage.answer)
        self.metrics.whole_s.observe(took)
        if exchange.first_s is not None:
            self.metrics.first_s.observe(exchange.first_s)
        if self.verbose:
            self.log(
                f"{exchange.id} {exchange.caller.name} {model}: {usage.prompt} + {usage.answer} "
                f"tokens, {took:.2f} s, {end}"
            )


def is_short(ask: Ask) -> bool:
    """Whether a request holds a little text and nothing else that takes time to read."""
    if not isinstance(ask.asked, Conversation):
        return sum(map(len, ask.asked)) < _SHORT
    contents = [message.content for message in ask.asked.messages]
    plain = not ask.asked.tools and all(isinstance(content, str) for content in contents)
    return plain and ask.sampling.guide is None and sum(map(len, contents)) < _SHORT
