"""Conversations -> what a chat box shows. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from swift.app.reply import Call, Reply
from swift.app.talk import Lane
from swift.app.texts import Texts

_JOINER = "\u2060"
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


@dataclass(frozen=True)
class Place:
    """What a shown message stands for: a part of a turn."""

    turn: int
    part: str  # question, thinking, answer, call, error, note


@dataclass(frozen=True)
class Shown:
    """Messages of a chat box, and the place of each."""

    messages: list[dict[str, Any]]
    places: list[Place]
    thumbs: list[str | None]  # of each message of the assistant, in Gradio's words


def inert(text: str) -> str:
    """Markdown in which no HTML begins: what looks like a tag stays the text that it is.

    A word joiner, which has no width, stands behind each ``<`` that could open a tag; blocks of
    code are left alone, for nothing begins in them.
    """
    lines, fence = [], ""
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line)
        if fence:
            if match and match[1].startswith(fence) and not match[2].strip():
                fence = ""
            lines.append(line)
        elif match and not (match[1][0] == "`" and "`" in match[2]):
            fence = match[1]
            lines.append(line)
        else:
            lines.append(_TAG.sub(f"<{_JOINER}", line))
    return "\n".join(lines)


def plain(text: str) -> str:
    """The text that :func:`inert` was given."""
    return text.replace(f"<{_JOINER}", "<")


def shown(lane: Lane, texts: Texts, *, whole_only: bool = False) -> Shown:
    """A conversation as messages.

    Args:
        lane: the conversation.
        texts: of the page's language.
        whole_only: show nothing of an answer that is still being written.
    """
    found = Shown([], [], [])
    for number, turn in enumerate(lane.turns):
        files = [{"path": file} for file in turn.question.files]
        text = [_text(inert(turn.question.text))] if turn.question.text else []
        _add(found, Place(number, "question"), "user", [*files, *text])
        if turn.reply.state == "open" and (whole_only or turn.reply == Reply(turn.reply.model)):
            _add(found, Place(number, "answer"), "assistant", [_text("\u2026")])
        else:
            _add_reply(found, number, turn.reply, texts)
        thumb = None if turn.reply.good is None else "Like" if turn.reply.good else "Dislike"
        said = sum(one["role"] == "assistant" for one in found.messages) - len(found.thumbs)
        found.thumbs.extend([thumb] * said)
    return found


def _add_reply(found: Shown, number: int, reply: Reply, texts: Texts) -> None:
    if reply.thinking:
        thinks = reply.state == "open" and not reply.said
        title = {"title": texts.thinking, "status": "pending" if thinks else "done"}
        place = Place(number, "thinking")
        _add(found, place, "assistant", [_text(inert(reply.thinking))], title)
    if reply.content:
        _add(found, Place(number, "answer"), "assistant", [_text(inert(reply.content))])
    for call in reply.calls:
        title = {"title": f"{texts.calls} {inert(call.name)}"}
        _add(found, Place(number, "call"), "assistant", [_text(arguments(call))], title)
    if reply.error:
        title = {"title": texts.failed}
        _add(found, Place(number, "error"), "assistant", [_text(fenced(reply.error))], title)
    elif reply.state == "stopped" or not (reply.said or reply.state == "open"):
        word = texts.stopped if reply.state == "stopped" else texts.empty
        _add(found, Place(number, "note"), "assistant", [_text(f"*{word}*")])


def _add(
    found: Shown,
    place: Place,
    role: str,
    content: list[Any],
    metadata: dict[str, Any] | None = None,
) -> None:
    message = {"role": role, "content": content}
    found.messages.append({**message, "metadata": metadata} if metadata else message)
    found.places.append(place)


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def arguments(call: Call) -> str:
    """The arguments of a call, one a line where they are whole."""
    try:
        text = json.dumps(json.loads(call.arguments), ensure_ascii=False, indent=2)
    except ValueError:
        text = call.arguments
    return fenced(text, "json")


def fenced(text: str, language: str = "") -> str:
    """A text as a block of code, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def told(reply: Reply, texts: Texts) -> str:
    """One line about the last answer: how many tokens, how fast."""
    parts = []
    if reply.prompt is not None and reply.size is not None:
        parts.append(texts.tokens.format(prompt=reply.prompt, answer=reply.size))
    if reply.rate is not None:
        parts.append(texts.rate.format(rate=reply.rate))
    if reply.first_s is not None:
        parts.append(texts.first.format(seconds=reply.first_s))
    if reply.finish == "length":
        parts.append(texts.cut)
    return " \u00b7 ".join(parts)
