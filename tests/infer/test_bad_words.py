"""Token sequences as the texts by which vLLM forbids just these."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import ConfigError
from swift.infer.backends.bad_words import NEVER, forbidden
from tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def vllm(texts: list[str]) -> set[tuple[int, ...]]:
    """What vLLM 0.32 makes of texts: the loop of ``update_from_tokenizer``, in its own order."""
    found: list[tuple[int, ...]] = []
    for text in texts:
        for spaced in (False, True):
            tokens = ids((" " if spaced else "") + text.lstrip())
            if not tokens:
                assert spaced, "it refuses such a text"
                continue
            if not spaced or (tokens[0] != found[-1][0] and len(tokens) == len(found[-1])):
                found.append(tokens)
    return set(found)


def pairs() -> list[tuple[int, ...]]:
    """A text of several tokens, with a space before it and without, both of the same length."""
    for first in "abcdefghijklmnopqrstuvwxyz":
        for second in "abcdefghijklmnopqrstuvwxyz":
            plain, spaced = ids(first + second), ids(" " + first + second)
            if len(plain) == len(spaced) == 2 and plain[0] != spaced[0]:
                return [plain, spaced]
    raise AssertionError("the tokenizer has no such text")


def test_a_text_is_forbidden_with_and_without_a_space() -> None:
    both = pairs()
    texts, biases = forbidden(both, TOKENIZER, biased=False)
    assert vllm(texts) == set(both) and not biases


def test_what_no_text_forbids_alone_is_refused_with_what_would_help() -> None:
    plain, spaced = pairs()
    with pytest.raises(ConfigError, match="none forbids just the tokens") as error:
        forbidden([plain], TOKENIZER, biased=True)
    assert f"would also forbid {[list(spaced)]}" in str(error.value)


def test_a_token_gets_a_bias_that_no_logit_outweighs() -> None:
    word = ids("a")
    assert len(word) == 1
    assert forbidden([word], TOKENIZER, biased=True) == ([], {word[0]: NEVER})
    with pytest.raises(ConfigError, match="none forbids just the tokens"):
        forbidden([word], TOKENIZER, biased=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(3, 399), min_size=1, max_size=3), min_size=1, max_size=4))
def test_just_what_is_asked_for_is_forbidden(words: list[Any]) -> None:
    asked = {tuple(word) for word in words}
    for one in list(asked):  # so that many can be said
        text = TOKENIZER.decode(list(one))
        asked |= {found for found in (ids(text.lstrip()), ids(" " + text.lstrip())) if found}
    for some in (asked, {tuple(word) for word in words}):
        try:
            texts, biases = forbidden(sorted(some), TOKENIZER, biased=True)
        except ConfigError:
            continue
        assert vllm(texts) | {(token,) for token in biases} == some
