"""What must hold for a conversation that nobody answers in it: of what is sent for its answer."""

from __future__ import annotations

from collections.abc import Callable

import jinja2

from swift.chat.message import Conversation
from swift.chat.properties import (
    Case,
    Reference,
    Result,
    difference,
    forms_of,
    judge,
    quoting,
    unwritten,
)
from swift.chat.render import Renderer
from swift.errors import RenderError


def verify_prompt(
    renderer: Renderer, reference: Reference | None, conversation: Conversation
) -> list[Result]:
    """The properties that say something about a prompt alone.

    Args:
        renderer: what is judged.
        reference: transformers' rendering of the same checkpoint; None leaves it out.
        conversation: without an answer at its end.
    """
    case = Case(renderer, reference, conversation)
    return [judge(name, holds, case) for name, holds in _PROPERTIES.items()]


def _prompt(case: Case, conversation: Conversation) -> list[int]:
    if not conversation.messages:
        raise RenderError("there are no messages")
    return case.renderer.prompt(
        conversation.messages, conversation.tools, conversation.template_kwargs
    )


def _same_tokens(case: Case) -> str:
    """The tokens are those of ``apply_chat_template`` with the header of an answer."""
    talk, prompt = case.conversation, _prompt(case, case.conversation)
    if case.reference is None:
        raise RenderError("there is nothing to compare with")
    if case.renderer.spec.prefix:
        raise RenderError("not comparable: apply_chat_template knows no prefix of every answer")
    if talk.media:
        raise RenderError("not comparable: apply_chat_template is asked for texts alone")
    quote, forms = case.renderer.tokenizer.quote, forms_of(talk.messages)
    if quote(forms[0]) != forms[0] or quote(list(talk.tools)) != list(talk.tools):
        raise RenderError(
            "not comparable: apply_chat_template takes quoted control tokens for real"
        )
    wrong = ""
    for turns in forms:
        try:
            expected = case.reference(turns, talk.tools, True, talk.template_kwargs)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            wrong = wrong or f"transformers cannot write it: {error}"
            continue
        if prompt == expected:
            return ""
        wrong = wrong or f"the prompt {difference(case, prompt, expected)}"
    return wrong


def _quoted_stays_text(case: Case) -> str:
    return quoting(case, lambda talk: [_prompt(case, talk)])


def _everything_is_written(case: Case) -> str:
    prompt = _prompt(case, case.conversation)
    return unwritten(case, prompt, case.conversation.messages)


def _same_again(case: Case) -> str:
    first, second = (_prompt(case, case.conversation) for _ in range(2))
    return "" if first == second else "a second rendering gives other tokens"


_PROPERTIES: dict[str, Callable[[Case], str]] = {
    "same tokens": _same_tokens,
    "quotes stay text": _quoted_stays_text,
    "all is written": _everything_is_written,
    "same again": _same_again,
}
"""The names are those of :data:`swift.chat.properties.PROPERTIES`, of which these are a part."""
