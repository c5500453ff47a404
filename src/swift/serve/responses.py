"""OpenAI's responses: answers and their events on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from swift.chat.message import ToolCall
from swift.serve.ask import Answer, Step, Usage
from swift.serve.openai import error as error_of
from swift.serve.refused import Refused
from swift.serve.responses_wire import Request, ask
from swift.serve.wire import written

__all__ = ["Request", "Stream", "ask", "whole"]


def whole(wire: Request, id: str, answers: Sequence[Answer], usage: Usage) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    (answer,) = answers
    return _ended(_response(wire, id, int(time.time())), answer, usage)


def _response(wire: Request, id: str, created: int) -> dict[str, Any]:
    """A response of which nothing is there yet."""
    said = wire.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "metadata": wire.metadata or {},
        "model": wire.model,
        "output": [],
        "parallel_tool_calls": wire.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": said.get("reasoning", {"effort": None, "summary": None}),
        "store": False,
        "temperature": wire.temperature,
        "text": said.get("text", {"format": {"type": "text"}}),
        "tool_choice": said.get("tool_choice", "auto"),
        "tools": said.get("tools", []),
        "top_p": wire.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def _ended(response: dict[str, Any], answer: Answer, usage: Usage) -> dict[str, Any]:
    cut = answer.finish == "length"
    return {
        **response,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": _output(response["id"], answer),
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.answer,
            "output_tokens_details": {"reasoning_tokens": usage.thought},
            "total_tokens": usage.total,
        },
    }


def _output(id: str, answer: Answer) -> list[dict[str, Any]]:
    """The items of an answer: thinking, text, calls."""
    status = "incomplete" if answer.finish == "length" else "completed"
    items: list[dict[str, Any]] = []
    if answer.thinking:
        items.append(_reasoning(_named("rs", id, len(items)), answer.thinking, status))
    if answer.content or not answer.calls:
        items.append(_message(_named("msg", id, len(items)), answer.content, status))
    for call in answer.calls:
        items.append(_call(_named("fc", id, len(items)), call, written(call), "completed"))
    return items


def _named(kind: str, id: str, number: int) -> str:
    return f"{kind}_{id.partition('_')[2]}_{number}"


def _reasoning(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": id, "type": "reasoning", "summary": [], "content": content, "status": status}


def _message(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_text(text)]
    message = {"id": id, "type": "message", "role": "assistant", "status": status}
    return {**message, "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(id: str, call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
    said = {"call_id": call.id, "name": call.name, "arguments": arguments}
    return {"id": id, "type": "function_call", "status": status, **said}


class Stream:
    """The events of one streamed answer."""

    def __init__(self, wire: Request, id: str) -> None:
        self._response = _response(wire, id, int(time.time()))
        self._answer = Answer()
        self._sent = 0  # events
        self._number = -1  # of the item that is open
        self._item = self._text = ""  # its id; what it holds so far
        self._kind = ""  # reasoning or output

    def begin(self, usage: Usage) -> Iterator[str]:
        """The events before the first step."""
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def step(self, step: Step) -> Iterator[str]:
        """The events of a step."""
        self._answer.add(step)
        for kind, text in (("reasoning", step.thinking), ("output", step.content)):
            if text:
                yield from self._begun(kind)
                self._text += text
                more: dict[str, Any] = {"logprobs": []} if kind == "output" else {}
                yield self._part_event(f"response.{kind}_text.delta", delta=text, **more)
        for call in step.calls:
            yield from self._called(call)

    def end(self, usage: Usage) -> Iterator[str]:
        """The events behind the last step."""
        if not (self._answer.content or self._answer.calls):
            yield from self._begun("output")
        status = "incomplete" if self._answer.finish == "length" else "completed"
        yield from self._closed(status)
        response = _ended(self._response, self._answer, usage)
        yield self._event(f"response.{status}", response=response)

    def failed(self, refused: Refused) -> Iterator[str]:
        """The events of an error in the middle of an answer."""
        said = error_of(refused)["error"]
        failure = {"code": "server_error", "message": said["message"]}
        response = {**self._response, "status": "failed", "error": failure}
        yield self._event("response.failed", response=response)

    def _begun(self, kind: str) -> Iterator[str]:
        """Begin an item of a kind, unless one is open."""
        if self._kind == kind:
            return
        yield from self._closed("completed")
        self._kind, self._text, self._number = kind, "", self._number + 1
        make, prefix = (_reasoning, "rs") if kind == "reasoning" else (_message, "msg")
        self._item = _named(prefix, self._response["id"], self._number)
        yield self._item_event("added", make(self._item, None, "in_progress"))
        yield self._part_event("response.content_part.added", part=self._part(""))

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "output":
            return _text(text)
        return {"type": "reasoning_text", "text": text}

    def _closed(self, status: str) -> Iterator[str]:
        """End the item that is open."""
        if not self._kind:
            return
        more: dict[str, Any] = {"logprobs": []} if self._kind == "output" else {}
        yield self._part_event(f"response.{self._kind}_text.done", text=self._text, **more)
        yield self._part_event("response.content_part.done", part=self._part(self._text))
        make = _message if self._kind == "output" else _reasoning
        yield self._item_event("done", make(self._item, self._text, status))
        self._kind = ""

    def _called(self, call: ToolCall) -> Iterator[str]:
        yield from self._closed("completed")
        self._number += 1
        self._item = _named("fc", self._response["id"], self._number)
        place = {"item_id": self._item, "output_index": self._number}
        arguments = written(call)
        yield self._item_event("added", _call(self._item, call, "", "in_progress"))
        head = "response.function_call_arguments"
        yield self._event(f"{head}.delta", **place, delta=arguments)
        yield self._event(f"{head}.done", **place, name=call.name, arguments=arguments)
        yield self._item_event("done", _call(self._item, call, arguments, "completed"))

    def _item_event(self, what: str, item: dict[str, Any]) -> str:
        return self._event(f"response.output_item.{what}", output_index=self._number, item=item)

    def _part_event(self, kind: str, **more: Any) -> str:
        place = {"item_id": self._item, "output_index": self._number, "content_index": 0}
        return self._event(kind, **place, **more)

    def _event(self, kind: str, **more: Any) -> str:
        data = {"type": kind, "sequence_number": self._sent, **more}
        self._sent += 1
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n"
