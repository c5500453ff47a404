"""Thinking and tool calls are read back as they were written, by marks found in the template."""

from __future__ import annotations

import random
from typing import Any

import pytest

import tiny
from chat.templates import Family
from swift.chat.dialect import Json, Tagged, held_back
from swift.chat.message import Conversation, Delta, Message, ToolCall
from swift.chat.render import Renderer
from swift.errors import RenderError

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
TAIL = "{{ '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
THINK = (
    "{% if m.reasoning_content %}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
)
EMPTY = THINK.replace(
    "{% endif %}", "{% elif m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
ARGUMENTS = "c.function.arguments | tojson"
CALLS = {
    "hermes": (
        "{% for c in m.tool_calls or [] %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}"
        "{{ '<tool_call>\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}"
        "{{ c.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"
    ),
    "list with ids": (
        "{% for c in m.tool_calls or [] %}{{ '[TOOL_CALLS][' if loop.first else ', ' }}"
        "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}"
        "{{ c.function.arguments | tojson }}{{ ', \"id\": \"' + c.id + '\"}' }}"
        "{{ ']' if loop.last }}{% endfor %}"
    ),
    "tagged": (
        "{% for c in m.tool_calls or [] %}"
        "{{ '\n\n' if loop.first and m.content else ('\n' if not loop.first) }}"
        "{{ '<tool_call>\n<function=' + c.function.name + '>\n' }}"
        "{% for k, v in c.function.arguments | items %}{{ '<parameter=' + k + '>\n' }}"
        "{{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}"
        "{{ '</function>\n</tool_call>' }}{% endfor %}"
    ),
    "keys and values": (
        "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>' + c.function.name + '\n' }}"
        "{% for k, v in c.function.arguments | items %}"
        "{{ '<arg_key>' + k + '</arg_key>\n<arg_value>' }}"
        "{{ v if v is string else v | tojson }}{{ '</arg_value>\n' }}{% endfor %}"
        "{{ '</tool_call>' }}{% endfor %}"
    ),
    "fenced text": (
        "{% for c in m.tool_calls or [] %}{{ '<calls>' if loop.first else '\n' }}"
        "{{ '<call>function<sep>' + c.function.name + '\n```json\n' }}"
        "{{ c.function.arguments + '\n```</call>' }}"
        "{{ '</calls>' if loop.last }}{% endfor %}"
    ),
}  # fmt: skip
CONTENT = "{{ m.content }}"
KINDS = {name: THINK + CONTENT + calls for name, calls in CALLS.items()}
KINDS["empty thinking"] = EMPTY + CONTENT + CALLS["hermes"]

ONE = ToolCall("get_weather", {"city": "Paris", "days": 3, "exact": True}, "abcdefgh1")
TWO = ToolCall("find.it", {"words": ["a", "b"], "note": 'say "hi"\nnow'}, "abcdefgh2")
NONE = ToolCall("now", {}, "abcdefgh3")
ANSWERS = {
    "text": Message("assistant", "It is so."),
    "thinking": Message("assistant", "It is so.", thinking="First this.\nThen that."),
    "call": Message("assistant", "", tool_calls=(ONE,)),
    "text and call": Message("assistant", "Let me look.", tool_calls=(TWO,)),
    "two calls": Message("assistant", "", tool_calls=(ONE, TWO)),
    "everything": Message("assistant", "Both:", thinking="Hm.", tool_calls=(TWO, ONE)),
    "no arguments": Message("assistant", "", tool_calls=(NONE, ONE)),
}


def renderer_of(kind: str) -> Renderer:
    return Family(HEAD + KINDS[kind] + TAIL + PROMPT, "", "<|im_end|>").renderer()


@pytest.fixture(scope="module")
def renderers() -> dict[str, Renderer]:
    return {kind: renderer_of(kind) for kind in KINDS}


def answer_tokens(renderer: Renderer, message: Message) -> list[int]:
    turns = (Message("user", "Q"), message)
    [sample] = renderer.render(Conversation(turns))
    return sample.tokens[len(renderer.prompt(turns[:1])) :]


def bare(message: Message) -> tuple[Any, ...]:
    """What must come back; ids do where they are written."""
    calls = [(call.name, dict(call.arguments)) for call in message.tool_calls]
    return message.content, message.thinking, calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_written_is_read_back(renderers: dict[str, Renderer], kind: str, name: str) -> None:
    renderer, message = renderers[kind], ANSWERS[name]
    found = renderer.parse(answer_tokens(renderer, message))
    assert bare(found) == bare(message)
    if kind == "list with ids":
        assert found == message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ANSWERS)
def test_token_by_token_it_is_the_same(
    renderers: dict[str, Renderer], kind: str, name: str
) -> None:
    renderer, message = renderers[kind], ANSWERS[name]
    tokens, parser = answer_tokens(renderer, message), renderer.parser()
    deltas = [parser.push(token) for token in tokens]
    assert parser.done and parser.close() == Delta()
    assert "".join(delta.content for delta in deltas) == message.content
    assert "".join(delta.thinking for delta in deltas) == (message.thinking or "")
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert tuple(calls) == renderer.parse(tokens).tool_calls
    assert parser.message() == renderer.parse(tokens)


def test_an_answer_that_is_cut_short(renderers: dict[str, Renderer]) -> None:
    """Every beginning is read without an error, and what is told is never taken back."""
    renderer = renderers["hermes"]
    tokens = answer_tokens(renderer, ANSWERS["everything"])
    for end in range(len(tokens)):
        parser = renderer.parser()
        told = [parser.push(token) for token in tokens[:end]]
        assert ANSWERS["everything"].thinking is not None
        thinking = "".join(delta.thinking for delta in told)
        assert ANSWERS["everything"].thinking.startswith(thinking.rstrip("\n"))
        told.append(parser.close())
        assert sum(len(delta.tool_calls) for delta in told) == len(parser.message().tool_calls)


def test_the_marks_are_those_of_the_template(renderers: dict[str, Renderer]) -> None:
    found = renderers["hermes"]._writer.dialect()
    assert found.thinking is not None and found.calls is not None
    assert (found.thinking.before, found.thinking.behind) == ("<think>\n", "\n</think>\n\n")
    assert isinstance(found.calls.arguments, Json)
    assert found.calls.open == '<tool_call>\n{"name": "'
    assert isinstance(renderers["tagged"]._writer.dialect().calls.arguments, Tagged)
    assert renderers["fenced text"]._writer.dialect().text_arguments


def test_thinking_that_the_prompt_opens() -> None:
    text = HEAD + THINK + CONTENT + TAIL
    prompt = PROMPT.replace("assistant\n", "assistant\n<think>\n")
    renderer = Family(text + prompt, "", "<|im_end|>").renderer()
    message = ANSWERS["thinking"]
    assert renderer.parse(answer_tokens(renderer, message)) == message
    with pytest.raises(RenderError, match="writes the turn differently from"):
        renderer.render(Conversation((Message("user", "Q"), ANSWERS["text"])))


def test_thinking_written_into_the_content_is_moved_to_its_place() -> None:
    renderer = renderer_of("hermes")
    inside = Message("assistant", "<think>\nFirst this.\nThen that.\n</think>\n\nIt is so.")
    assert answer_tokens(renderer, inside) == answer_tokens(renderer, ANSWERS["thinking"])
    plain = Family(tiny.CHATML, "", "").renderer()  # this template knows no thinking: it stays
    assert plain.parse(answer_tokens(plain, inside)).content == inside.content


@pytest.mark.parametrize(
    ("name", "what"), [("thinking", "its thinking"), ("call", "its tool calls")]
)
def test_what_a_template_leaves_out_is_refused(name: str, what: str) -> None:
    renderer = Family(tiny.CHATML, "", "").renderer()
    with pytest.raises(RenderError) as error:
        renderer.render(Conversation((Message("user", "Q"), ANSWERS[name])))
    assert str(error.value) == (
        f"message 2 (assistant): the template does not write {what}, so it would not be learned"
    )


def test_a_template_that_changes_what_is_said() -> None:
    renderer = Family(
        tiny.CHATML.replace("message['content']", "message['content'] | lower"), "", ""
    ).renderer()
    with pytest.raises(RenderError, match="does not write its content as it is"):
        renderer.render(Conversation((Message("user", "q"), Message("assistant", "It Is So."))))


def test_a_stop_token_that_is_the_next_header() -> None:
    """Nothing ends a turn; the model stops by beginning the next one."""
    text = (
        "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}"
        "{{ '\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_end|>' }}{% endif %}"
    )
    renderer = Family(text, "", "", eos="<|im_start|>").renderer()
    turns = (Message("user", "a"), Message("assistant", "b"))
    more = (*turns, Message("user", "c"), Message("assistant", "d"))
    start = renderer.tokenizer.token_id("<|im_start|>")
    for conversation in (turns, more):
        [sample] = renderer.render(Conversation(conversation))
        learned = [t for t, w in zip(sample.tokens, sample.weights, strict=True) if w]
        assert learned.count(start) == len(conversation) // 2
        assert sample.tokens[-1] == start


def test_text_that_may_become_a_mark_is_held_back() -> None:
    marks = ["<think>", "\n<tool_call>"]
    for text, size in (("a", 0), ("a<", 1), ("a<thi", 4), ("a\n", 1), ("<think>", 0), ("<b", 0)):
        assert held_back(text, marks) == size
    chance = random.Random(0)
    for _ in range(200):
        text = "".join(chance.choices("<think>\n a", k=12))
        size = held_back(text, marks)
        longer = [
            n
            for n in range(1, 12)
            if any(m.startswith(text[-n:]) and m != text[-n:] for m in marks)
        ]
        assert size == max(longer, default=0)
