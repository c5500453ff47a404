"""What a conversation must satisfy to be learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.chat.message import ROLES, Message
from swift.errors import RenderError


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
