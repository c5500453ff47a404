"""OpenAI's completions of texts: wire types, and what they mean. No template is put around."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from swift.serve.ask import Answer, Ask, Chosen, Step, Usage
from swift.serve.openai import StreamOptions, at_most, error, frame, usage_of
from swift.serve.refused import Refused, wrong
from swift.serve.wire import Choosing, Defaults

_MOST = 256  # prompts in one request

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=_MOST)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=_MOST)]


class Request(Choosing):
    """The body of ``POST /v1/completions``."""

    model: str
    prompt: str | Ids | Texts | ManyIds
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


def prompts_of(wire: Request) -> tuple[str | list[int], ...]:
    """The prompts of a request, each a text or ids."""
    prompt: Any = wire.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return (prompt,)
    return tuple(prompt)


def ask(wire: Request, defaults: Defaults) -> Ask:
    """What a body asks for.

    Raises:
        Refused: fields contradict each other or ask for too much.
    """
    count = at_most(wire.n or 1, defaults.most_answers, "n")
    prompts = prompts_of(wire)
    if wire.best_of not in (None, count):
        raise wrong("best_of", "every answer is sent here: leave it out, or give it the value of n")
    if wire.stream_options is not None and not wire.stream:
        raise wrong("stream_options", "has a meaning only with stream=true")
    if wire.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise wrong("echo", "needs prompts that are texts")
    logprobs = wire.logprobs
    if logprobs is not None:
        at_most(logprobs, defaults.most_logprobs, "logprobs")
        if wire.echo:
            raise wrong("echo", "with logprobs would need those of the prompt, which are not told")
    sampling = wire.chosen(defaults.sampling, wire.max_tokens, logprobs=logprobs)
    if wire.prompt_logprobs is not None:
        top = at_most(wire.prompt_logprobs, defaults.most_logprobs, "prompt_logprobs")
        if wire.stream:
            raise wrong("prompt_logprobs", "are not streamed: leave out stream")
        sampling = replace(sampling, prompt_logprobs=True, prompt_top=top)
    return Ask(wire.model, prompts, sampling, count, stop_ids=tuple(wire.stop_token_ids or ()))


def _echoed(wire: Request, index: int) -> str:
    prompts = prompts_of(wire)
    return str(prompts[index // (wire.n or 1)]) if wire.echo else ""


def _head(wire: Request, id: str) -> dict[str, Any]:
    now = int(time.time())
    return {"id": id, "object": "text_completion", "created": now, "model": wire.model}


def whole(wire: Request, id: str, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return {
        **_head(wire, id),
        "choices": [
            {
                "index": index,
                "text": _echoed(wire, index) + answer.content,
                "logprobs": None if wire.logprobs is None else _logprobs(answer.chosen, 0),
                "finish_reason": answer.finish,
                **({} if wire.prompt_logprobs is None else {"prompt_logprobs": _read(answer)}),
            }
            for index, answer in enumerate(answers)
        ],
        "usage": usage_of(usage),
    }


def _read(answer: Answer) -> list[dict[str, dict[str, float]] | None]:
    """What was believed of the tokens of a prompt, as vLLM tells it; nothing of the first."""
    rows = [{str(id): {"logprob": x} for id, x in row.items()} for row in answer.read]
    return [None, *rows]


def _logprobs(chosen: Sequence[Chosen], offset: int) -> dict[str, Any]:
    """Log-probabilities on the wire; ``offset`` is where the first token begins in the answer."""
    offsets = []
    for one in chosen:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in chosen],
        "token_logprobs": [one.logprob for one in chosen],
        "top_logprobs": [{text: logprob for _, text, logprob in one.top} for one in chosen],
        "text_offset": offsets,
    }


class Stream:
    """The events of streamed answers."""

    def __init__(self, wire: Request, id: str) -> None:
        self._wire = wire
        self._head = _head(wire, id)
        self._usage = bool(wire.stream_options and wire.stream_options.include_usage)
        self._offsets: dict[int, int] = {}

    def begin(self, usage: Usage) -> Iterator[str]:
        """The events before the first step: none."""
        yield from ()

    def step(self, step: Step) -> Iterator[str]:
        """The events of a step."""
        text = step.content
        if step.index not in self._offsets:
            self._offsets[step.index] = 0
            text = _echoed(self._wire, step.index) + text
        if not (text or step.chosen or step.finish):
            return
        logprobs = None
        if self._wire.logprobs is not None:
            logprobs = _logprobs(step.chosen, self._offsets[step.index])
            self._offsets[step.index] += sum(len(one.text) for one in step.chosen)
        choice = {
            "index": step.index, "text": text, "logprobs": logprobs, "finish_reason": step.finish
        }  # fmt: skip
        yield frame({**self._head, "choices": [choice], **({"usage": None} if self._usage else {})})

    def end(self, usage: Usage) -> Iterator[str]:
        """The events behind the last step."""
        if self._usage:
            yield frame({**self._head, "choices": [], "usage": usage_of(usage)})
        yield "data: [DONE]\n\n"

    def failed(self, refused: Refused) -> Iterator[str]:
        """The events of an error in the middle of an answer."""
        yield frame(error(refused))
        yield "data: [DONE]\n\n"
