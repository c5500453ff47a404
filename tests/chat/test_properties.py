"""Every family, every shape: no property is violated; and every refusal names its reason."""

from __future__ import annotations

from functools import cache

import pytest

from chat.templates import FAMILIES, renderer_of
from swift.chat.message import Conversation, Message
from swift.chat.properties import PROPERTIES, Reference, reference_of, verify
from swift.chat.render import Renderer
from swift.chat.shapes import SHAPES, missing


@cache
def checkpoint_of(family: str) -> tuple[Renderer, Reference]:
    tokenizer = FAMILIES[family].tokenizer()
    return renderer_of(tokenizer), reference_of(tokenizer)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_property_is_violated(family: str, shape: str) -> None:
    renderer, reference = checkpoint_of(family)
    if missing(renderer, SHAPES[shape]):
        return
    results = verify(renderer, reference, SHAPES[shape].conversation)
    assert [result for result in results if result.status == "violated"] == []
    assert all(result.why for result in results if result.status == "refused")


HELD_BY_ALL = ("one round", "three rounds", "same answer twice", "unicode", "one turn not learned")


@pytest.mark.parametrize("shape", HELD_BY_ALL)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_conversations_hold_every_property(family: str, shape: str) -> None:
    renderer, reference = checkpoint_of(family)
    results = verify(renderer, reference, SHAPES[shape].conversation)
    assert [result.name for result in results] == list(PROPERTIES)
    assert [result for result in results if result.status != "held"] == []


def test_without_a_reference_that_property_is_left_out() -> None:
    renderer, _ = checkpoint_of("chatml")
    first, *others = verify(renderer, None, SHAPES["one round"].conversation)
    assert (first.status, first.why) == ("refused", "there is nothing to compare with")
    assert {result.status for result in others} == {"held"}


def test_what_cannot_be_learned_is_refused_with_the_renderers_reason() -> None:
    renderer, reference = checkpoint_of("chatml")
    results = verify(renderer, reference, Conversation((Message("user", "Hi"),)))
    refused = [result for result in results if result.status == "refused"]
    assert {result.why for result in refused} == {
        "the last message is from 'user'; SFT needs an assistant answer there"
    }


def test_a_template_that_knows_no_thinking_is_not_asked_for_it() -> None:
    renderer, _ = checkpoint_of("chatml")
    assert missing(renderer, SHAPES["one round"]) is None
    assert missing(renderer, SHAPES["thinking"]) == "the template does not write thinking"
    assert missing(renderer, SHAPES["tool call"]) == "the template does not write tool calls"
