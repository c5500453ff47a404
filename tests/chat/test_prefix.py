"""Answers that begin with a given text: read and not learned, and sent for as they are learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny
from chat.templates import FAMILIES, STRIPS_THINKING, Family
from swift.chat.given import Given, given
from swift.chat.message import Conversation, Message
from swift.chat.properties import PROPERTIES, reference_of, verify
from swift.chat.render import Renderer
from swift.chat.shapes import SHAPES, missing
from swift.errors import RenderError

THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and (m.reasoning_content is defined or loop.last) %}"
    "{{ '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTION = Message("user", "Who are you?")
PREFIXES = ("My", "My name is ", "My name is A", "\n", "<|im_end|> is")


def with_prefix(renderer: Renderer, prefix: str) -> Renderer:
    return Renderer(replace(renderer.spec, prefix=prefix))


def learned(renderer: Renderer, *messages: Message) -> tuple[str, str]:
    """What is read and what is learned of a conversation with one answer to learn."""
    [sample] = renderer.render(Conversation(messages))
    split = next(i for i, weight in enumerate(sample.weights) if weight)
    end = max(i for i, weight in enumerate(sample.weights) if weight) + 1
    assert all(sample.weights[split:end])
    texts = (sample.tokens[:split], sample.tokens[split:end])
    read, said = (renderer.tokenizer.decode(ids, keep_special=True) for ids in texts)
    return read, said


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prompt_and_rest_are_the_rendered_turn(family: str, prefix: str) -> None:
    """Message by message and for a whole run: the prompt is what the rest is learned behind."""
    plain = FAMILIES[family].renderer()
    answer = Message("assistant", prefix + "pus and so on.", prefix=prefix)
    for renderer, said in (
        (plain, answer),
        (with_prefix(plain, prefix), replace(answer, prefix="")),
        (with_prefix(plain, prefix), Message("assistant", "pus and so on.")),
    ):
        asked = (QUESTION, replace(answer, content=prefix)) if said.prefix else (QUESTION,)
        prompt = renderer.prompt(asked)
        [sample] = renderer.render(Conversation((QUESTION, said)))
        assert sample.tokens[: len(prompt)] == prompt
        first = next(i for i, weight in enumerate(sample.weights) if weight)
        assert first == len(prompt)
        tokens = [*renderer.given(asked), *sample.tokens[len(prompt) :]]
        [whole] = plain.render(Conversation((QUESTION, replace(answer, prefix=""))))
        as_written = plain.parse(whole.tokens[len(plain.prompt([QUESTION])) :])
        assert str(renderer.parse(tokens).content).strip() == str(as_written.content).strip()
        texts = [plain.tokenizer.decode(s.tokens, keep_special=True) for s in (sample, whole)]
        assert texts[1].startswith(texts[0].rstrip("\n"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_is_that_of_transformers(family: str) -> None:
    tokenizer, renderer = FAMILIES[family].tokenizer(), FAMILIES[family].renderer()
    begun = Message("assistant", "My name", prefix="My name")
    rows = [message.for_template() for message in (QUESTION, begun)]
    expected = tokenizer.apply_chat_template(rows, continue_final_message=True, return_dict=False)
    assert renderer.prompt([QUESTION, begun]) == expected
    assert renderer.prompt([QUESTION]) != expected
    assert renderer.given([QUESTION]) == []


@pytest.mark.parametrize("prefix", ["It", "<think>\n"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_property_is_violated_with_a_prefix_of_every_answer(shape: str, prefix: str) -> None:
    renderer = with_prefix(Family(THINKS, "", "").renderer(), prefix)
    if missing(renderer, SHAPES[shape]):
        return
    reference = reference_of(Family(THINKS, "", "").tokenizer())
    results = verify(renderer, reference, SHAPES[shape].conversation)
    assert [result for result in results if result.status == "violated"] == []
    if shape in ("three rounds", "prefix", "prefix ends within a word", "prefix in the thinking"):
        held = [result.name for result in results if result.status == "held"]
        assert held == list(PROPERTIES)[1:]


@pytest.mark.parametrize(
    ("prefix", "read", "said"),
    [
        ("<think>\n", "<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>"),
        ("<think>", "<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>"),
        ("<think>\nH", "<think>\nH", "m.\n</think>\n\nYes.<|im_end|>"),
        ("<think>\nWell. ", "<think>\nWell. ", "Hm.\n</think>\n\nYes.<|im_end|>"),
    ],
)
@pytest.mark.parametrize("tags", [False, True])
def test_a_prefix_that_opens_the_thinking(prefix: str, read: str, said: str, tags: bool) -> None:
    renderer = with_prefix(Family(THINKS, "", "").renderer(), prefix)
    answer = Message("assistant", "Yes.", "Hm.")
    if tags:
        answer = Message("assistant", "<think>\nHm.\n</think>\n\nYes.")
    header = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert learned(renderer, QUESTION, answer) == (header + read, said)
    assert (
        renderer.tokenizer.decode(renderer.prompt([QUESTION]), keep_special=True) == header + read
    )
    generated = renderer.tokenizer.encode(said).ids
    found = renderer.parse([*renderer.given([QUESTION]), *generated])
    assert (found.content, found.thinking) == (
        "Yes.",
        read.removeprefix("<think>\n") + said[: said.index("\n")],
    )


def test_thinking_that_is_switched_off_by_a_prefix() -> None:
    renderer = with_prefix(Family(THINKS, "", "").renderer(), "<think>\n\n</think>\n\n")
    read, said = learned(renderer, QUESTION, Message("assistant", "Yes."))
    assert read.endswith("assistant\n<think>\n\n</think>\n\n") and said == "Yes.<|im_end|>"
    with pytest.raises(RenderError, match="the template begins it differently from an answer"):
        renderer.render(Conversation((QUESTION, Message("assistant", "Yes.", "Hm."))))


def test_a_template_without_thinking_takes_the_prefix_for_content() -> None:
    renderer = with_prefix(Family(tiny.CHATML, "", "").renderer(), "<think>\n")
    read, said = learned(renderer, QUESTION, Message("assistant", "<think>\nHm.</think>Yes."))
    assert read.endswith("assistant\n<think>\n") and said == "Hm.</think>Yes.<|im_end|>"


def test_history_begins_as_the_answers_do() -> None:
    """Rows that lack the prefix, and answers that have it already, are the same history."""
    renderer = with_prefix(Family(tiny.CHATML, "", "").renderer(), "Well, ")
    without, again = (Message("assistant", text) for text in ("yes.", "Well, yes."))
    assert renderer.prompt([QUESTION, without, QUESTION]) == renderer.prompt(
        [QUESTION, again, QUESTION]
    )
    own = Message("assistant", "No, it", prefix="No, ")
    assert renderer.begun([own, without]) == (own, replace(without, content="Well, yes."))


def test_an_answer_that_asks_for_tools_begins_so_as_well() -> None:
    renderer = with_prefix(Family(tiny.CHATML, "", "").renderer(), "Well, ")
    assert renderer.begun([Message("assistant", "")])[0].content == "Well, "


REFUSED = {
    "another beginning": (tiny.CHATML, "Yes, it is.", "No", "does not begin with its prefix"),
    "nothing left": (tiny.CHATML, "Yes.", "Yes.", "all of it is given, so there is nothing"),
    "a template that cuts it": (
        STRIPS_THINKING.replace("loop.index0 < ns.last", "true"),
        *("a</think>b", "a</think>", "the template does not write its"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused(case: str) -> None:
    template, content, prefix, why = REFUSED[case]
    renderer = Family(template, "", "").renderer()
    with pytest.raises(RenderError, match=why):
        renderer.render(Conversation((QUESTION, Message("assistant", content, prefix=prefix))))


def test_the_parts_of_a_given_text() -> None:
    dialect = Family(THINKS, "", "").renderer()._writer.dialect()
    assert given("Sure", dialect) == Given(None, "Sure")
    assert given("<think>\nHm", dialect) == Given("Hm", None)
    assert given("<think>\nHm\n</think>\n\nSo", dialect) == Given("Hm", "So")
