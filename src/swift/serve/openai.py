"""OpenAI's chat completions: wire types, and what they mean."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from swift.chat.message import Conversation
from swift.infer.engine import Guide
from swift.serve.ask import Answer, Ask, Chosen, Forced, Step, Usage
from swift.serve.openai_messages import ChatMessage, OfferedTool, messages_of
from swift.serve.refused import Refused, wrong
from swift.serve.wire import MOST_TOOLS, Choosing, Defaults, Wire, check_media, names_of, written


class StreamOptions(Wire):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class FunctionName(Wire):
    """A function by its name."""

    name: str


class NamedTool(Wire):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(Wire):
    """A schema with a name."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    """What the text of an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def guide(self) -> Guide | None:
        """The guide, where one is needed."""
        if self.type == "json_object":
            return Guide("json", {"type": "object"})
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.schema_ is None:
            raise wrong("response_format.json_schema", "needs a schema")
        return Guide("json", self.json_schema.schema_)


class Request(Choosing):
    """The body of ``POST /v1/chat/completions``."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


def ask(wire: Request, defaults: Defaults) -> Ask:
    """What a body asks for.

    Raises:
        Refused: fields contradict each other or ask for too much.
    """
    count = at_most(wire.n or 1, defaults.most_answers, "n")
    if wire.stream_options is not None and not wire.stream:
        raise wrong("stream_options", "has a meaning only with stream=true")
    if wire.max_tokens is not None and wire.max_completion_tokens is not None:
        raise wrong("max_tokens", "is the old name of max_completion_tokens: give one of them")
    said: dict[str, Any] = {"logprobs": _logprobs(wire, defaults)}
    if wire.response_format and (guide := wire.response_format.guide()):
        if wire.structured_outputs is not None:
            raise wrong("response_format", "structured_outputs says it as well: give one of them")
        said["guide"] = guide
    messages = messages_of(wire.messages)
    tools, forced = offered(wire)
    if forced and "guide" in said:
        raise wrong("response_format", "a forced tool call leaves no text that could have a form")
    conversation = Conversation(messages, tools, _template_kwargs(wire))
    check_media(conversation, defaults)
    return Ask(
        wire.model,
        conversation,
        wire.chosen(defaults.sampling, wire.max_completion_tokens or wire.max_tokens, **said),
        count,
        forced,
        wire.parallel_tool_calls is False,
        tuple(wire.stop_token_ids or ()),
    )


def _logprobs(wire: Request, defaults: Defaults) -> int | None:
    if not wire.logprobs:
        if wire.top_logprobs is not None:
            raise wrong("top_logprobs", "needs logprobs=true")
        return None
    return at_most(wire.top_logprobs or 0, defaults.most_logprobs, "top_logprobs")


def at_most(value: int, most: int, param: str) -> int:
    """A number, where it is not above a limit of the server; else :class:`Refused`."""
    if value > most:
        raise wrong(param, f"{value} is above this server's limit, {most}")
    return value


def _template_kwargs(wire: Request) -> dict[str, Any]:
    kwargs = dict(wire.chat_template_kwargs or {})
    if wire.reasoning_effort == "none":
        kwargs["enable_thinking"] = False
    elif wire.reasoning_effort is not None:
        kwargs["reasoning_effort"] = wire.reasoning_effort
    return kwargs


def offered(wire: Request) -> tuple[tuple[dict[str, Any], ...], Forced | None]:
    """The tools that the model is told of, and those of which it must call one."""
    tools = tuple(tool.for_template() for tool in wire.tools or ())
    names = names_of(tools)
    choice = wire.tool_choice
    if choice is None or choice == "auto":
        return tools, None
    if choice == "none":
        return (), None
    if not tools:
        raise wrong("tool_choice", "there are no tools to choose from")
    if isinstance(choice, NamedTool):
        if choice.function.name not in names:
            raise wrong("tool_choice", f"there is no tool {choice.function.name!r}")
        return tools, Forced((choice.function.name,))
    return tools, Forced(names)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Token counts on the wire."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.answer,
        "total_tokens": usage.total,
        "completion_tokens_details": {"reasoning_tokens": usage.thought},
    }


def whole(wire: Request, id: str, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    return {
        "id": id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": wire.model,
        "choices": [
            {
                "index": index,
                "message": _message(answer),
                "finish_reason": answer.finish,
                "logprobs": {"content": logprobs_of(answer.chosen)} if wire.logprobs else None,
            }
            for index, answer in enumerate(answers)
        ],
        "usage": usage_of(usage),
    }


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.calls:
        message["content"] = answer.content or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": written(call)},
            }
            for call in answer.calls
        ]
    return message


def logprobs_of(chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Log-probabilities on the wire."""
    return [
        {
            **_token(one.text, one.logprob),
            "top_logprobs": [_token(text, logprob) for _, text, logprob in one.top],
        }
        for one in chosen
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    # a token may be a part of a character: then nobody can say its bytes from its text
    whole = "\ufffd" not in text
    known = list(text.encode("utf-8", "surrogatepass")) if whole else None
    return {"token": text, "logprob": logprob, "bytes": known}


def frame(data: dict[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class Stream:
    """The events of one streamed answer."""

    def __init__(self, wire: Request, id: str) -> None:
        self._wire = wire
        self._head = {
            "id": id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": wire.model,
        }
        self._usage = bool(wire.stream_options and wire.stream_options.include_usage)
        self._begun: set[int] = set()
        self._calls: dict[int, int] = {}

    def begin(self, usage: Usage) -> Iterator[str]:
        """The events before the first step: none."""
        yield from ()

    def step(self, step: Step) -> Iterator[str]:
        """The events of a step; the first of an answer names the role."""
        if step.index not in self._begun:
            self._begun.add(step.index)
            yield self._chunk(step.index, {"role": "assistant", "content": ""})
        if step.thinking:
            yield self._chunk(step.index, {"reasoning_content": step.thinking})
        if step.content or step.chosen:
            yield self._chunk(step.index, {"content": step.content}, step.chosen)
        for call in step.calls:
            number = self._calls.get(step.index, 0)
            self._calls[step.index] = number + 1
            function = {"name": call.name, "arguments": written(call)}
            said = {"index": number, "id": call.id, "type": "function", "function": function}
            yield self._chunk(step.index, {"tool_calls": [said]})
        if step.finish is not None:
            yield self._chunk(step.index, {}, finish=step.finish)

    def end(self, usage: Usage) -> Iterator[str]:
        """The events behind the last step."""
        if self._usage:
            yield frame({**self._head, "choices": [], "usage": usage_of(usage)})
        yield "data: [DONE]\n\n"

    def failed(self, refused: Refused) -> Iterator[str]:
        """The events of an error in the middle of an answer."""
        yield frame(error(refused))
        yield "data: [DONE]\n\n"

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        chosen: Sequence[Chosen] = (),
        finish: str | None = None,
    ) -> str:
        logprobs = {"content": logprobs_of(chosen)} if chosen else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        more = {"usage": None} if self._usage else {}
        return frame({**self._head, "choices": [choice], **more})


_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "invalid_request_error", 408: "timeout_error", 409: "invalid_request_error",
    413: "invalid_request_error", 429: "rate_limit_error", 504: "timeout_error",
}  # fmt: skip


def error(refused: Refused) -> dict[str, Any]:
    """An error on the wire."""
    return {
        "error": {
            "message": str(refused),
            "type": _TYPES.get(refused.status, "server_error"),
            "param": refused.param,
            "code": refused.code,
        }
    }
