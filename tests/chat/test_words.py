"""Ids that are remembered word by word are those of the library, at every border."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from typing import Any

import pytest
import tokenizers

import packages
import tiny
from chat import families
from swift.chat.tokenizer import Tokenizer
from swift.chat.words import Words, find_words

PIECES = (
    *("the", " of", "don't", " I'LL", "we've ", "x'S", " ", "  ", "   \n", "\n\n", "\t", "\r\n"),
    *("1", "12", "1234567", "3.14", "a1b2", "_x_", "...", "!?", " -- ", "{'a': [1]}", "http://a.b"),
    *("\x00", "\x0b", "\x1c", "\x7f", "'", "''", " '", "'s", "it's's", "A" * 70, "zz" * 9),
    *("if (x):\n\treturn", "a  b", "   c"),
    *("<|im_end|>", "<|im_end|", "|>", "<|endoftext|>", "</s>", "<s>", "<|eot_id|>", "<bos>"),
)  # fmt: skip


def texts(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    chars = [chr(i) for i in range(128)]
    made = ["", *("".join(chance.choices(PIECES, k=chance.randint(1, 30))) for _ in range(count))]
    return made + ["".join(chance.choices(chars, k=chance.randint(1, 60))) for _ in range(count)]


def same(definition: str, backend: tokenizers.Tokenizer, seed: int, count: int) -> int:
    """How many texts were read by words; each exactly as the library reads it."""
    words = find_words(json.loads(definition), backend)
    assert words is not None
    read = 0
    for text in texts(seed, count):
        found = words.split(text)
        if found is None:
            continue
        read += 1
        expected = backend.encode(text, add_special_tokens=False)
        lefts = [left for left, _ in expected.offsets]
        assert found.ids == expected.ids, repr(text)
        for at in range(len(text) + 1):
            assert found.index(at) in (None, bisect_left(lefts, at)), (text, at)
        for i, left in enumerate(lefts):
            assert found.left(i) in (None, left), (text, i)
    return read


def backend_of(definition: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(definition)


def test_the_small_tokenizer() -> None:
    definition = tiny.make_tokenizer().backend_tokenizer.to_str()
    assert same(definition, backend_of(definition), 1, 400) == 801


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "llama3", "llama3_1"])
def test_real_tokenizers(name: str) -> None:
    try:
        _, definition = families.tokenizer(name)
    except packages.Unreachable as error:
        pytest.skip(str(error))
    assert same(definition, backend_of(definition), 2, 1000) > 1900


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "deepseek_v3", "gptoss"])
def test_tokenizers_that_are_read_whole(name: str) -> None:
    try:
        _, definition = families.tokenizer(name)
    except packages.Unreachable as error:
        pytest.skip(str(error))
    assert find_words(json.loads(definition), backend_of(definition)) is None


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split_by(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    said = {"pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
    steps = [{"type": "Split", **said}, {**BYTES, "use_regex": False}]
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {**BYTES, "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTES]}},
        split_by(r"\w+"),
        split_by(r"a(?=b)"),
        split_by(r"^a|."),
        split_by(r"\s", "Removed"),
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Prepend", "prepend": "_"}},
        {"post_processor": {**BYTES, "trim_offsets": True}},
        {"added_tokens": []},
    ],
    ids=str,
)
def test_what_is_not_understood_is_read_whole(change: dict[str, Any]) -> None:
    made = tiny.make_tokenizer().backend_tokenizer
    definition = json.loads(made.to_str())
    assert find_words(definition, made) is not None
    assert find_words({**definition, **change}, made) is None


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_control_tokens_that_take_what_is_beside_them(flag: str) -> None:
    made = tiny.make_tokenizer().backend_tokenizer
    definition = json.loads(made.to_str())
    definition["added_tokens"][0][flag] = True
    assert find_words(definition, made) is None


def test_a_choice_at_random_is_read_whole() -> None:
    made = tiny.make_tokenizer().backend_tokenizer
    definition = json.loads(made.to_str())
    definition["model"]["dropout"] = 0.1
    assert find_words(definition, made) is None


def test_other_than_ascii_is_read_whole() -> None:
    made = tiny.make_tokenizer().backend_tokenizer
    words = find_words(json.loads(made.to_str()), made)
    assert words is not None
    assert words.split("naïve") is None and words.split("naive") is not None


def test_a_difference_at_the_beginning_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = tiny.make_tokenizer().backend_tokenizer.to_str()
    right = Tokenizer(definition, ()).encode("one two").ids
    monkeypatch.setattr(Words, "_ids", lambda self, word: [7])
    tokenizer = Tokenizer(definition, ())
    assert tokenizer.encode("one two").ids == right
    assert (
        tokenizer.encode("one two three").ids == backend_of(definition).encode("one two three").ids
    )
