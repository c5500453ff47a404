"""What a conversation must satisfy to be learned from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swift.chat.message import ROLES, TAGS, Message
from swift.errors import RenderError

_SHOWN = 40  # characters of a text in a reason


def check(messages: Sequence[Message]) -> None:
    """What every conversation that is learned from must satisfy.

    Raises:
        RenderError: with the number of the message (counted from 1).
    """
    if not messages:
        raise RenderError("there are no messages")
    check_roles(messages)
    for number, message in enumerate(messages, 1):
        if message.role == "assistant" and not (message.content or message.tool_calls):
            raise RenderError(f"message {number} (assistant) is empty: there is nothing to learn")
    last = messages[-1].role
    if last != "assistant":
        raise RenderError(f"the last message is from {last!r}; SFT needs an assistant answer there")


def check_roles(messages: Sequence[Message]) -> None:
    """Raise RenderError for a role that no template knows; it would be written as it is."""
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise RenderError(
                f"message {number}: role {message.role!r} is not one of {', '.join(ROLES)}"
            )


def check_said(turn: Mapping[str, Any], answer: str, index: int) -> None:
    """What a message holds must be in the text that is learned for it."""
    content = turn.get("content") or ""
    texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
    calls = [call["function"]["name"] for call in turn.get("tool_calls", ())]
    for what, parts in (
        ("its content as it is", texts),
        ("its thinking", [turn.get("reasoning_content") or ""]),
        ("its tool calls", calls),
    ):
        if not all(part.strip() in answer for part in parts):
            raise RenderError(
                f"message {index + 1} (assistant): the template does not write {what}, so it would "
                "not be learned"
            )


def check_prompt(whole: str, prompt: str, index: int) -> None:
    """Raise RenderError for an answer that does not stand behind its prompt."""
    if whole.startswith(prompt):
        return
    why = ""
    if prompt.rstrip().endswith(TAGS[0]):
        why = (
            f"; the prompt opens a thinking ({TAGS[0]}): the answer needs one, and a template that "
            "writes it (--chat_template file.jinja)"
        )
    raise RenderError(
        f"message {index + 1} (assistant): the template writes the turn differently from "
        f"the prompt that inference sends, so it cannot be learned as it will be used{why}"
    )


def check_given(answer: str, opening: str, message: Message, index: int) -> None:
    """What is given of an answer must be how it begins, and something must be left to learn."""
    where = f"message {index + 1} (assistant)"
    if message.prefix and not str(message.content).startswith(message.prefix):
        raise RenderError(f"{where}: its content does not begin with its prefix")
    if not answer.startswith(opening):
        raise RenderError(
            f"{where}: the template begins it differently from an answer of which only "
            f"{opening[:_SHOWN]!r} is given, so it cannot be learned as it will be used"
        )
    if opening and answer == opening:
        raise RenderError(f"{where}: all of it is given, so there is nothing to learn")


def check_heard(
    messages: Sequence[Message], turns: Sequence[Mapping[str, Any]], prompt: str
) -> None:
    """What users, systems and tools say must be in the prompt; the thinking of answers need not.

    Args:
        messages: as they were given.
        turns: the same as the template reads them.
        prompt: what it writes.

    Raises:
        RenderError: the template leaves a message out, as many do with a role or a place in the
            conversation that they do not know.
    """
    at, said = 0, Counter[str]()
    for number, (message, turn) in enumerate(zip(messages, turns, strict=True), 1):
        if message.role == "assistant":
            continue
        for text in map(str.strip, _texts(turn)):
            found = _find(text, prompt, at, said[text])
            said[text] += 1
            if found is None:
                raise RenderError(
                    f"message {number} ({message.role}): the template leaves it out, so the model "
                    f"would not see it; {_INSTEAD.get(message.role, _REWRITE)}"
                )
            at = found


_REWRITE = "write it into another message, or give a template that knows it with --chat_template"
_FIRST = "write it into the first system message, or into that of the user"
_INSTEAD = {"system": _FIRST, "developer": _FIRST}


def _texts(turn: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a message."""
    content = turn.get("content") or ""
    if isinstance(content, str):
        yield content
    else:
        yield from (part.get("text", "") for part in content)


def _find(text: str, prompt: str, at: int, before: int) -> int | None:
    """Where a text ends in a prompt: behind a place, or before it where a template reorders.

    Others before it may have said the same; they need a place of their own.
    """
    for form in _forms(text):
        found = prompt.find(form, at)
        if found >= 0:
            return found + len(form)
        if form in prompt and prompt.count(form) > before:
            return at
    return None


def _forms(text: str) -> Iterator[str]:
    """As it is, or as a part of JSON: so are results of tools written."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]
