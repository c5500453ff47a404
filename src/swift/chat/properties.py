"""What must hold for every rendered conversation, as functions that say whether it does.

Each takes a :class:`Case` and judges it by the renderer's public face alone (``prompt``,
``render``, ``parse``). A refusal is no violation: the renderer refuses what it cannot prove.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import jinja2

from swift.chat.message import Conversation, Message, Rendered
from swift.chat.render import Renderer
from swift.errors import DataError, RenderError

Status = Literal["held", "refused", "violated"]

Turns = Sequence[Mapping[str, Any]]
"""Messages as templates read them."""

Reference = Callable[[Turns, Turns, bool, Mapping[str, Any]], list[int]]
"""(turns, tools, whether the header of an answer follows, template_kwargs) -> tokens."""

_SHOWN = 60  # characters of a text in an explanation
_HARMLESS = "word"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one property on one conversation, and why."""

    name: str
    status: Status
    why: str = ""


@dataclass(frozen=True)
class Answer:
    """One learned turn by itself: what is sent for it, and the one sample that learns only it."""

    index: int
    message: Message
    prompt: list[int]
    given: list[int]  # at the end of the prompt: the beginning of the answer
    sample: Rendered

    @property
    def tokens(self) -> list[int]:
        """What the model says: from behind the prompt to the last learned token."""
        last = max(i for i, weight in enumerate(self.sample.weights) if weight > 0)
        return self.sample.tokens[len(self.prompt) : last + 1]


@dataclass(frozen=True)
class Case:
    """A conversation before a renderer, with transformers' word on it where there is one."""

    renderer: Renderer
    reference: Reference | None
    conversation: Conversation

    @cached_property
    def samples(self) -> list[Rendered]:
        """The conversation rendered; raises RenderError."""
        return self.renderer.render(self.conversation)

    @cached_property
    def answers(self) -> list[Answer]:
        """Every learned turn by itself; raises RenderError."""
        tools, kwargs = self.conversation.tools, self.conversation.template_kwargs
        messages = self.renderer.begun(self.conversation.messages, kwargs)
        found = []
        for i, message in enumerate(messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = tuple(replace(m, weight=0.0) for m in messages[:i])
            alone = replace(self.conversation, messages=(*before, message))
            sample = self.renderer.render(alone)[-1]
            asked = messages[: i + 1] if message.prefix else messages[:i]
            prompt = self.renderer.prompt(asked, tools, kwargs)
            given = self.renderer.given(asked, tools, kwargs)
            found.append(Answer(i, message, prompt, given, sample))
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, control tokens included."""
        return self.renderer.tokenizer.decode(list(tokens), keep_special=True)


def reference_of(
    tokenizer: Any, template: str | None = None, variables: Mapping[str, Any] | None = None
) -> Reference:
    """Transformers' ``apply_chat_template``.

    Args:
        tokenizer: of transformers.
        template: used instead of its own.
        variables: what the template reads in every conversation.
    """

    def tokens(turns: Turns, tools: Turns, generate: bool, kwargs: Mapping[str, Any]) -> list[int]:
        found = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=template,
            add_generation_prompt=generate,
            return_dict=False,
            **{**(variables or {}), **kwargs},
        )
        return list(found)

    return tokens


def same_tokens(case: Case) -> str:
    """The tokens are those of ``apply_chat_template``, of the conversation and of every prompt."""
    if case.reference is None:
        raise RenderError("there is nothing to compare with")
    if case.renderer.spec.prefix:
        raise RenderError("not comparable: apply_chat_template knows no prefix of every answer")
    tools = list(case.conversation.tools)
    forms = forms_of(case.conversation.messages)
    assert case.samples  # a refusal of its own comes first
    if case.conversation.media:
        raise RenderError("not comparable: apply_chat_template is asked for texts alone")
    quote = case.renderer.tokenizer.quote
    if quote(forms[0]) != forms[0] or quote(tools) != tools:
        raise RenderError(
            "not comparable: apply_chat_template takes quoted control tokens for real"
        )
    wrong = _compared(case, case.reference, forms[0])
    others = (_compared(case, case.reference, turns) for turns in forms[1:])
    return "" if not wrong or "" in others else wrong


def _compared(case: Case, reference: Reference, turns: Turns) -> str:
    """What differs from transformers' rendering of these turns."""
    tools, kwargs = case.conversation.tools, case.conversation.template_kwargs
    wholes, prompts = {}, {}
    for answer in case.answers:
        i = answer.index
        try:
            wholes[i] = reference(turns[: i + 1], tools, False, kwargs)
            prompts[i] = answer.prompt  # transformers writes none for an empty conversation
            if prefix := answer.message.prefix:
                if answer.message.has_tags:
                    raise RenderError("not comparable: apply_chat_template goes on in no thinking")
                going_on = {**kwargs, "continue_final_message": True}
                begun = {**turns[i], "content": _cut(turns[i]["content"], prefix)}
                prompts[i] = reference([*turns[:i], begun], tools, False, going_on)
            elif i > 0:
                prompts[i] = reference(turns[:i], tools, True, kwargs)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            return f"transformers cannot write message {i + 1}: {error}"
        if answer.prompt != prompts[i]:
            return f"the prompt of message {i + 1} {difference(case, answer.prompt, prompts[i])}"
    for sample in case.samples:
        if any(whole[: len(sample.tokens)] == sample.tokens for whole in wholes.values()):
            continue
        if not any(_apart(case, sample.tokens, prompts[i], wholes[i]) for i in wholes):
            return f"a sample {difference(case, sample.tokens, wholes[max(wholes)])}"
    return ""


def _cut(content: Any, prefix: str) -> Any:
    """The content of an answer, in the form in which a row has it, up to its prefix."""
    return prefix if isinstance(content, str) else [{"type": "text", "text": prefix}]


def forms_of(messages: Sequence[Message]) -> list[list[dict[str, Any]]]:
    """The ways in which a row may hold these messages, as far as templates differ in them."""
    apart = [message.without_tags() for message in messages]
    system = [replace(m, role="system") if m.role == "developer" else m for m in messages]
    different = [messages, apart, *([system] if system != list(messages) else [])]
    return [
        [message.for_template(text_arguments=as_text, in_parts=in_parts) for message in said]
        for in_parts in (False, True)
        for said in different
        for as_text in (False, True)
    ]


def prompt_is_prefix(case: Case) -> str:
    """What inference sends for an answer is, token for token, what the answer is learned behind."""
    for answer in case.answers:
        start = answer.sample.tokens[: len(answer.prompt)]
        if start != answer.prompt:
            return f"message {answer.index + 1}: it {difference(case, start, answer.prompt)}"
    return ""


def stop_is_learned(case: Case) -> str:
    """Every learned turn ends in a token that ends an answer."""
    stops = case.renderer.stop_ids
    for answer in case.answers:
        if not answer.tokens or answer.tokens[-1] not in stops:
            return f"message {answer.index + 1} ends in {_shown(case.text(answer.tokens[-1:]))}"
        if early := [i for i in answer.tokens[:-1] if i in stops]:
            return f"message {answer.index + 1} holds {_shown(case.text(early[:1]))} inside"
    return ""


def prompt_is_not_learned(case: Case) -> str:
    """No token of a prompt is learned, and what is learned of every answer is learned once."""
    for answer in case.answers:
        if any(answer.sample.weights[: len(answer.prompt)]):
            return f"message {answer.index + 1}: a token of its prompt is learned"
    alone = _learned([answer.sample for answer in case.answers])
    together = _learned(case.samples)
    if together != alone:
        return f"{together.total()} tokens are learned together, {alone.total()} turn by turn"
    return ""


def quoted_stays_text(case: Case) -> str:
    """Control tokens spelled in messages stay text: as many are written as without them."""
    return quoting(case, lambda talk: [sample.tokens for sample in case.renderer.render(talk)])


def quoting(case: Case, written: Callable[[Conversation], list[list[int]]]) -> str:
    """What control tokens spelled in the case's messages change in what is written for them."""
    special = case.renderer.tokenizer.special_ids
    found = {t for tokens in written(case.conversation) for t in tokens if t in special}
    texts = {case.text([id]) for id in found | case.renderer.stop_ids} - {""}
    spelled = sorted((text for text in texts if text.strip()), key=len, reverse=True)

    def control(change: Callable[[str], str]) -> list[list[int]]:
        messages = tuple(
            replace(m, content=change(m.content)) if isinstance(m.content, str) else m
            for m in case.conversation.messages
        )
        samples = written(replace(case.conversation, messages=messages))
        return [[token for token in tokens if token in special] for tokens in samples]

    def harmless(text: str) -> str:
        for token in spelled:
            text = text.replace(token, _HARMLESS)
        return text

    loud = control(lambda text: f"{text} {''.join(spelled)} {_HARMLESS}")
    if loud != control(lambda text: f"{harmless(text)} {_HARMLESS} {_HARMLESS}"):
        return f"quoting {_shown(' '.join(spelled))} changes the control tokens that are written"
    return ""


def everything_is_written(case: Case) -> str:
    """What users, systems and tools said is in what the model reads."""
    if not case.answers:
        return ""
    last = case.answers[-1]
    return unwritten(case, last.prompt, case.conversation.messages[: last.index])


def unwritten(case: Case, prompt: Sequence[int], messages: Sequence[Message]) -> str:
    """Which of these messages is not in a prompt."""
    text = _squeezed(case.text(prompt))
    for i, message in enumerate(messages):
        if message.role == "assistant" or not isinstance(message.content, str):
            continue
        tokenizer = case.renderer.tokenizer
        said = case.text(tokenizer.encode(tokenizer.quote(message.content)).ids)
        forms = (said, json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1])
        if not any(_squeezed(form) in text for form in forms):
            return f"message {i + 1} ({message.role}): its text is not in the prompt"
    return ""


def parses_back(case: Case) -> str:
    """An answer's tokens give back its message, at once and token by token.

    White space at the ends of a text is the template's business.
    """
    for answer in case.answers:
        kwargs = case.conversation.template_kwargs
        tokens = [*answer.given, *answer.tokens]
        found = case.renderer.parse(tokens, kwargs)
        parser = case.renderer.parser(kwargs)
        deltas = [parser.push(token) for token in tokens]
        added = Message(
            "assistant",
            "".join(delta.content for delta in deltas),
            "".join(delta.thinking for delta in deltas),
            tuple(call for delta in deltas for call in delta.tool_calls),
        )
        if parser.message() != found or _fields(added) != _fields(found):
            return f"message {answer.index + 1}: token by token it is another message"
        got = _fields(found)
        meant = [_fields(answer.message), _fields(answer.message.without_tags())]
        if got in meant:
            continue
        name = next(name for name in got if got[name] != meant[1][name])
        shown = f"{_shown(str(got[name]))} instead of {_shown(str(meant[1][name]))}"
        return f"message {answer.index + 1}: its {name} comes back as {shown}"
    return ""


def same_again(case: Case) -> str:
    """Rendering a second time gives the same tokens, tomorrow as well."""
    if case.renderer.render(case.conversation) != case.samples:
        return "a second rendering gives other tokens"
    if _written(case, {}) != _written(case, {"strftime_now": None}):
        raise RenderError("the template writes the date of the day")
    return ""


PROPERTIES: dict[str, Callable[[Case], str]] = {
    "same tokens": same_tokens,
    "prompt is prefix": prompt_is_prefix,
    "stop is learned": stop_is_learned,
    "prompt not learned": prompt_is_not_learned,
    "quotes stay text": quoted_stays_text,
    "all is written": everything_is_written,
    "parses back": parses_back,
    "same again": same_again,
}
"""Each returns what is wrong, nothing when it holds, and raises RenderError for a refusal."""


def verify(
    renderer: Renderer, reference: Reference | None, conversation: Conversation
) -> list[Result]:
    """Every property on one conversation.

    Args:
        renderer: what is judged.
        reference: transformers' rendering of the same checkpoint; None leaves it out.
        conversation: with at least one assistant turn.
    """
    case = Case(renderer, reference, conversation)
    return [judge(name, holds, case) for name, holds in PROPERTIES.items()]


def judge(name: str, holds: Callable[[Case], str], case: Case) -> Result:
    """What became of one property."""
    try:
        wrong = holds(case)
    except DataError as error:  # the renderer's refusals, and media that cannot be read
        return Result(name, "refused", str(error))
    return Result(name, "violated" if wrong else "held", wrong)


def _learned(samples: list[Rendered]) -> Counter[int]:
    return Counter(
        token
        for sample in samples
        for token, weight in zip(sample.tokens, sample.weights, strict=True)
        if weight > 0
    )


def _fields(message: Message) -> dict[str, Any]:
    """What of a message an answer's tokens can say."""
    content = message.content
    if not isinstance(content, str):
        content = "".join(part for part in content if isinstance(part, str))
    return {
        "thinking": (message.thinking or "").strip(),
        "tool calls": [(call.name, dict(call.arguments)) for call in message.tool_calls],
        "content": content.strip(),
    }


def _apart(case: Case, tokens: list[int], prompt: list[int], whole: list[int]) -> bool:
    """Whether it is prompt and answer, tokenized apart as inference does, of the same text."""
    return tokens[: len(prompt)] == prompt and case.text(whole).startswith(case.text(tokens))


def _written(case: Case, kwargs: Mapping[str, Any]) -> str | None:
    """The text of the conversation with further names for its template; None: it fails."""
    assert case.renderer.template is not None
    turns = [message.for_template() for message in case.conversation.messages]
    names = {**case.conversation.template_kwargs, **kwargs}
    try:
        return case.renderer.template.render(turns, case.conversation.tools, kwargs=names)
    except RenderError:
        return None


def difference(case: Case, got: list[int], expected: list[int]) -> str:
    """Where tokens part from those that were expected."""
    same = next(
        (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b),
        min(len(got), len(expected)),
    )
    parts = (_shown(case.text(ids[same : same + 8])) for ids in (got, expected))
    return "differs at token {}: {} instead of {}".format(same, *parts)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
