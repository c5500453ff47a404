"""Conversations side by side, and what is sent of them. Pure, but for the files that it reads."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.app.reply import Call, Reply
from swift.errors import DataError

PARTED = "---"
"""The line between the results of several tool calls, as a user types them."""


_NAMES: Mapping[type, str] = {int: "whole number", float: "number"}


@dataclass(frozen=True)
class Question:
    """What a user says: a text, and the files that come before it."""

    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: Question
    reply: Reply


@dataclass(frozen=True)
class Lane:
    """A conversation with one model."""

    model: str
    turns: tuple[Turn, ...] = ()

    def asked(self, question: Question) -> Lane:
        """With one more question, still to be answered."""
        return replace(self, turns=(*self.turns, Turn(question, Reply(self.model))))

    def answered(self, reply: Reply, at: int = -1) -> Lane:
        """With another reply to a question, the last one unless said."""
        turns = list(self.turns)
        turns[at] = replace(turns[at], reply=reply)
        return replace(self, turns=tuple(turns))


@dataclass(frozen=True)
class Wish:
    """How answers should be: what is None is left to the server."""

    system: str = ""
    tools: str = ""  # a JSON list
    thinking: bool | None = None
    stop: tuple[str, ...] = ()
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)


NUMBERS = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "max_tokens": ("max_new_tokens", int),
    "repetition_penalty": ("repetition_penalty", float),
    "seed": ("seed", int),
}
"""Field of a request -> the setting that it begins with, and what it is."""


def wish_of(system: str, thinks: str, stop: str, tools: str, numbers: Mapping[str, str]) -> Wish:
    """What a user typed as a wish; nothing typed is left to the server.

    Raises:
        DataError: a number is none.
    """
    read = {}
    for name, text in numbers.items():
        try:
            read[name] = NUMBERS[name][1](text) if text.strip() else None
        except ValueError:
            raise DataError(f"{name}: {text!r} is no {_NAMES[NUMBERS[name][1]]}") from None
    return Wish(
        system,
        tools,
        {"on": True, "off": False}.get(thinks),
        tuple(line for line in stop.split("\n") if line),
        read,
    )


def arranged(lanes: Sequence[Lane], models: Sequence[str]) -> tuple[Lane, ...]:
    """Lanes for these models; one that is new goes on from the first lane's conversation."""
    there = {lane.model: lane for lane in lanes}
    first = lanes[0] if lanes else Lane("")
    return tuple(there.get(model) or replace(first, model=model) for model in models)


def kind_of(file: str) -> str:
    """image, video or audio, by the name of a file.

    Raises:
        DataError: it is something else.
    """
    kind = (mimetypes.guess_type(file)[0] or "").partition("/")[0]
    if kind not in ("image", "video", "audio"):
        raise DataError(f"{Path(file).name}: is no image, video or sound")
    return kind


def _data_url(file: str) -> str:
    found = mimetypes.guess_type(file)[0]
    return f"data:{found};base64,{base64.b64encode(Path(file).read_bytes()).decode()}"


def _part(file: str) -> dict[str, Any]:
    """A file as a part of OpenAI's protocol: all that is sent of it is in the request."""
    kind = kind_of(file)
    if kind == "audio":
        form = Path(file).suffix.removeprefix(".").lower()
        data = base64.b64encode(Path(file).read_bytes()).decode()
        return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    return {"type": f"{kind}_url", f"{kind}_url": {"url": _data_url(file)}}


def _results(calls: Sequence[Call], text: str) -> list[dict[str, Any]]:
    """What the user says to tool calls is what the tools answered."""
    parts = [text]
    if len(calls) > 1:
        parts = [part.strip("\n") for part in f"\n{text}\n".split(f"\n{PARTED}\n")]
    if len(parts) != len(calls):
        raise DataError(
            f"{len(calls)} calls need {len(calls)} results, with a line {PARTED} between them; "
            f"got {len(parts)}"
        )
    return [
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": part}
        for call, part in zip(calls, parts, strict=True)
    ]


def _answer(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.calls:
        message["tool_calls"] = [call.on_the_wire() for call in reply.calls]
    return message


def _said(lane: Lane, until: int) -> list[Turn]:
    """The turns that count: those with an answer, and the one that is to be answered."""
    turns = lane.turns[:until]
    return [turn for turn in turns if turn.reply.said] + list(lane.turns[until : until + 1])


def messages_of(lane: Lane, system: str = "") -> list[dict[str, Any]]:
    """The messages that ask the last question of a lane.

    A question that was never answered is left out of what follows it.

    Raises:
        DataError: a file is none that can be sent, or results of tools are missing.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    calls: tuple[Call, ...] = ()
    turns = _said(lane, len(lane.turns) - 1)
    for number, turn in enumerate(turns):
        asked = turn.question
        if calls:
            messages += _results(calls, asked.text)
        elif asked.files:
            text = [{"type": "text", "text": asked.text}] if asked.text else []
            messages.append({"role": "user", "content": [*map(_part, asked.files), *text]})
        else:
            messages.append({"role": "user", "content": asked.text})
        if number < len(turns) - 1:
            messages.append(_answer(turn.reply))
            calls = turn.reply.calls
    return messages


def body_of(lane: Lane, wish: Wish) -> dict[str, Any]:
    """The body of ``POST /v1/chat/completions`` that asks the last question of a lane.

    Raises:
        DataError: the tools are no JSON list, or see :func:`messages_of`.
    """
    body: dict[str, Any] = {
        "model": lane.model,
        "messages": messages_of(lane, wish.system),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {name: value for name, value in wish.numbers.items() if value is not None}
    if tools := tools_of(wish.tools):
        body["tools"] = tools
    if wish.stop:
        body["stop"] = list(wish.stop)
    if wish.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": wish.thinking}
    return body


def tools_of(text: str) -> list[Any]:
    """Tools as a user typed them.

    Raises:
        DataError: they are no JSON list.
    """
    try:
        found = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"the tools are not JSON: {error}") from None
    if not isinstance(found, list):
        raise DataError("the tools should be a JSON list, as OpenAI's protocol has them")
    return found


def row_of(lane: Lane, wish: Wish) -> dict[str, Any] | None:
    """A conversation as a row that ``--dataset`` reads, up to its last answer; None: there is none.

    Media are in it, as ``data:`` URLs. A call whose result is not there is its end.
    """
    turns = [turn for turn in lane.turns if turn.reply.said]
    if not turns:
        return None
    messages = messages_of(replace(lane, turns=tuple(turns)), wish.system)
    row: dict[str, Any] = {"messages": [*map(_of_row, messages), _of_row(_answer(turns[-1].reply))]}
    if tools := tools_of(wish.tools):
        row["tools"] = tools
    return row


def _of_row(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with each medium named by its kind, as rows have it."""
    if not isinstance(message["content"], list):
        return dict(message)
    return {**message, "content": [_part_of_row(part) for part in message["content"]]}


def _part_of_row(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return dict(part)
    if part["type"] == "input_audio":
        sound = part["input_audio"]
        url = f"data:audio/{sound['format']};base64,{sound['data']}"
        return {"type": "audio", "audio": url}
    kind = part["type"].removesuffix("_url")
    return {"type": kind, kind: part[part["type"]]["url"]}
