"""Strategies: parts of an answer that count more, less or not at all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tiny
from chat.templates import Family
from swift import registry
from swift.chat.message import Conversation, Message
from swift.chat.render import Renderer
from swift.chat.weights import (
    Strategy,
    agentflan,
    factors_of,
    hermes,
    ignore_empty_think,
    ignore_think_prefix,
    react,
    scale,
    strategies,
)
from swift.errors import RenderError

QUESTION = Message("user", "Q")


def pieces(parts: Iterator[tuple[int, int, float]], text: str) -> list[tuple[str, float]]:
    return [(text[start:end], factor) for start, end, factor in parts]


def test_scaling_cuts_parts_at_the_borders_of_factors() -> None:
    assert scale([(0, 10, 2.0)], [(3, 5, 0.5)]) == [(0, 3, 2.0), (3, 5, 1.0), (5, 10, 2.0)]
    assert scale([(0, 4, 1.0), (6, 9, 1.0)], [(2, 7, 3.0)]) == [
        (0, 2, 1.0), (2, 4, 3.0), (6, 7, 3.0), (7, 9, 1.0)
    ]  # fmt: skip
    assert scale([(0, 4, 1.0)], [(4, 9, 3.0), (7, 7, 0.0)]) == [(0, 4, 1.0)]


def test_an_empty_thinking_block_is_not_learned() -> None:
    text = "<think>\n\n</think>\n\nYes."
    assert pieces(ignore_empty_think(text), text) == [("<think>\n\n</think>\n\n", 0.0)]
    assert pieces(ignore_empty_think("<think>\na</think>Yes."), "") == []
    assert pieces(ignore_empty_think("No. <think></think>"), "") == []


def test_tool_calls_count_twice() -> None:
    text = "Let me see.\n<tool_call>\n{}\n</tool_call>\n<tool_call>a</tool_call>"
    assert pieces(hermes(text), text) == [
        ("<tool_call>\n{}\n</tool_call>", 2.0),
        ("<tool_call>a</tool_call>", 2.0),
    ]


def test_react_weighs_actions_and_leaves_observations_out() -> None:
    text = (
        "Thought: I look.\nAction: find\nAction Input: {}\nObservation: rain\nFinal Answer: Rain."
    )
    assert pieces(react(text), text) == [
        ("Action:", 2.0),
        (" find\n", 2.0),
        ("Action Input:", 2.0),
        (" {}\n", 2.0),
        ("Observation:", 2.0),
        (" rain\n", 0.0),
    ]


def test_the_mark_that_opens_the_thinking_is_not_learned() -> None:
    text = "<think>\n\nHm.</think>Yes."
    assert pieces(ignore_think_prefix(text), text) == [("<think>\n", 0.0)]
    assert pieces(ignore_think_prefix("No <think>"), "") == []


def test_agentflan_weighs_names_and_arguments() -> None:
    """The weights of ms-swift's agentflan.json, as pairs of a mark and what follows it."""
    text = "Thought: hm\nAction: find\nAction Input: {}\nObservation: rain\nFinal Answer: Rain."
    assert pieces(iter(agentflan(text, "How is it?")), text) == [
        ("Action:", 1.0),
        (" find\n", 3.0),
        ("Action Input:", 1.0),
        (" {}\n", 3.0),
        ("Observation:", 2.0),
        (" rain\n", 0.0),
    ]


def test_agentflan_weighs_answers_to_questions_for_a_call() -> None:
    renderer = Family(tiny.CHATML, "", "").renderer()
    asked = Message("user", "What is the value of city?")
    found = weighed(renderer, "Action: Paris", "agentflan", asked)
    assert found == [("Action: Paris", 3.0), ("<|im_end|>", 1.0), ("\n", 0.0)]
    assert weighed(renderer, "Paris", "agentflan")[0] == ("Paris<|im_end|>", 1.0)


def test_a_strategy_takes_the_question_if_it_wants_it() -> None:
    def whole(text: str, factor: float = 0.5) -> Iterator[tuple[int, int, float]]:
        yield 0, len(text), factor

    assert list(factors_of(whole, "Yes.", "Is it?")) == [(0, 4, 0.5)]


@pytest.mark.parametrize(
    "strategy", [react, hermes, ignore_empty_think, ignore_think_prefix, agentflan]
)
def test_an_answer_without_marks_is_left_alone(strategy: Strategy) -> None:
    assert list(factors_of(strategy, "It is so.", "Q")) == list(factors_of(strategy, "", "")) == []


def weighed(
    renderer: Renderer, said: str, learn: str, question: Message = QUESTION
) -> list[tuple[str, float]]:
    """The learned part of a rendering, joined where the weight is the same."""
    [sample] = renderer.render(Conversation((question, Message("assistant", said))), learn)
    start = len(renderer.prompt([question]))
    found: list[tuple[list[int], float]] = []
    for token, weight in zip(sample.tokens[start:], sample.weights[start:], strict=True):
        if not found or found[-1][1] != weight:
            found.append(([], weight))
        found[-1][0].append(token)
    return [(renderer.tokenizer.decode(t, keep_special=True), w) for t, w in found]


def test_the_weights_of_tokens() -> None:
    renderer = Family(tiny.CHATML, "", "").renderer()
    said = "Look: <tool_call>\nx\n</tool_call>"
    assert weighed(renderer, said, "hermes") == [
        ("Look:", 1.0), (" <tool_call>\nx\n</tool_call>", 2.0), ("<|im_end|>", 1.0), ("\n", 0.0)
    ] or weighed(renderer, said, "hermes") == [
        ("Look: ", 1.0), ("<tool_call>\nx\n</tool_call>", 2.0), ("<|im_end|>", 1.0), ("\n", 0.0)
    ]  # fmt: skip
    thought = "<think>\n\n</think>\n\nYes."
    found = weighed(renderer, thought, "last_round+ignore_empty_think")
    assert found == [("<think>\n\n</think>\n\n", 0.0), ("Yes.<|im_end|>", 1.0), ("\n", 0.0)]


def test_names_are_joined_with_a_plus() -> None:
    assert strategies("default") == ("default", [])
    assert strategies("hermes+last_round+react") == ("last_round", [hermes, react])


def half(text: str) -> Iterator[tuple[int, int, float]]:
    """A strategy of a user's own."""
    yield 0, len(text), 0.5


def test_a_strategy_of_your_own() -> None:
    registry.register("learn", "half", f"{__name__}:half")
    renderer = Family(tiny.CHATML, "", "").renderer()
    assert weighed(renderer, "Yes.", "half") == [("Yes.", 0.5), ("<|im_end|>", 1.0), ("\n", 0.0)]


MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "BEFORE{% generation %}{{ m.content }}{% endgeneration %}AFTER{% else %}{{ m.content }}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(("before", "after"), [("", ""), ("Note: ", ""), ("", " (end)")])
def test_generation_blocks_say_what_is_learned(before: str, after: str) -> None:
    """The stop token is learned whether or not a block holds it."""
    template = MARKED.replace("BEFORE", before).replace("AFTER", after)
    renderer = Family(template, "", "").renderer()
    parts = [(before, 0.0), ("Yes.", 1.0), (after, 0.0), ("<|im_end|>", 1.0), ("\n", 0.0)]
    expected: list[tuple[str, float]] = []
    for text, weight in parts:
        if text and expected and expected[-1][1] == weight:
            expected[-1] = (expected[-1][0] + text, weight)
        elif text:
            expected.append((text, weight))
    assert weighed(renderer, "Yes.", "default") == expected


def test_a_turn_outside_of_the_blocks_is_refused() -> None:
    template = MARKED.replace("BEFORE{% gen", "{{ m.content }}{% gen").replace(
        "{{ m.content }}{% endgen", "{% endgen"
    )
    renderer = Family(template.replace("AFTER", ""), "", "").renderer()
    with pytest.raises(RenderError, match="outside of the template's"):
        renderer.render(Conversation((QUESTION, Message("assistant", "Yes."))))
