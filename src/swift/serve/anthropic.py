"""Anthropic's messages: answers and their events on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from swift.serve.anthropic_wire import Prompt, Request, ask
from swift.serve.ask import Answer, Step, Usage
from swift.serve.refused import Refused
from swift.serve.wire import written

__all__ = ["Prompt", "Request", "Stream", "ask", "error", "whole"]

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def _reason(finish: str, stop: str | None) -> str:
    return "stop_sequence" if stop is not None else _REASONS[finish]


def _message(wire: Request, id: str, usage: Usage) -> dict[str, Any]:
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": wire.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": usage.prompt, "output_tokens": usage.answer},
    }


def whole(wire: Request, id: str, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    (answer,) = answers
    content: list[dict[str, Any]] = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
    if answer.content:
        content.append({"type": "text", "text": answer.content})
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}
        for call in answer.calls
    ]
    return {
        **_message(wire, id, usage),
        "content": content,
        "stop_reason": _reason(answer.finish, answer.stop),
        "stop_sequence": answer.stop,
    }


def frame(data: dict[str, Any]) -> str:
    """An event of a stream."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {data['type']}\ndata: {text}\n\n"


class Stream:
    """The events of one streamed answer: blocks, one behind the other."""

    def __init__(self, wire: Request, id: str) -> None:
        self._wire, self._id = wire, id
        self._number = -1  # of the block
        self._open = ""  # its type
        self._last: Step = Step()

    def begin(self, usage: Usage) -> Iterator[str]:
        """The events before the first step."""
        yield frame({"type": "message_start", "message": _message(self._wire, self._id, usage)})

    def step(self, step: Step) -> Iterator[str]:
        """The events of a step."""
        self._last = step
        if step.thinking:
            yield from self._block("thinking", {"thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": step.thinking})
        if step.content:
            yield from self._block("text", {"text": ""})
            yield self._delta({"type": "text_delta", "text": step.content})
        for call in step.calls:
            yield from self._closed()
            yield from self._block("tool_use", {"id": call.id, "name": call.name, "input": {}})
            yield self._delta({"type": "input_json_delta", "partial_json": written(call)})

    def _block(self, kind: str, start: dict[str, Any]) -> Iterator[str]:
        """Begin a block, unless one of the kind is open."""
        if self._open == kind:
            return
        yield from self._closed()
        self._number, self._open = self._number + 1, kind
        block = {"type": kind, **start}
        yield frame({"type": "content_block_start", "index": self._number, "content_block": block})

    def _closed(self) -> Iterator[str]:
        if self._open:
            self._open = ""
            yield frame({"type": "content_block_stop", "index": self._number})

    def _delta(self, delta: dict[str, Any]) -> str:
        return frame({"type": "content_block_delta", "index": self._number, "delta": delta})

    def end(self, usage: Usage) -> Iterator[str]:
        """The events behind the last step."""
        yield from self._closed()
        stop = self._last.stop
        delta = {"stop_reason": _reason(self._last.finish or "stop", stop), "stop_sequence": stop}
        counts = {"input_tokens": usage.prompt, "output_tokens": usage.answer}
        yield frame({"type": "message_delta", "delta": delta, "usage": counts})
        yield frame({"type": "message_stop"})

    def failed(self, refused: Refused) -> Iterator[str]:
        """The events of an error in the middle of an answer."""
        yield frame(error(refused))


_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def error(refused: Refused) -> dict[str, Any]:
    """An error on the wire."""
    kind = _TYPES.get(refused.status, "api_error" if refused.status >= 500 else _TYPES[400])
    return {"type": "error", "error": {"type": kind, "message": str(refused)}}
