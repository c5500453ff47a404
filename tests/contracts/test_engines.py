"""Every engine keeps the promises of engines.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from contracts.engines import PROMISES, PROMPTS, Subject
from swift.chat.load import load_tokenizer
from swift.errors import ConfigError, DataError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Guide, Request, Sampling, check


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Subject:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = load_tokenizer(checkpoint)
    return Subject(TransformersEngine(model, tokenizer), model, tokenizer)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_transformers_engine_keeps(
    promise: Callable[[Subject], None], subject: Subject
) -> None:
    promise(subject)


@pytest.mark.parametrize(
    "guide",
    [
        Guide("regex", "[0-9"),
        Guide("json", {"type": "nonsense"}),
        Guide("json", "{"),
        Guide("grammar", "start: nope"),
    ],
    ids=lambda guide: guide.kind,
)
def test_a_guide_that_means_nothing_is_named(guide: Guide, subject: Subject) -> None:
    with pytest.raises(DataError, match=rf"the guide \({guide.kind}\) cannot be used"):
        subject.answer(PROMPTS[0], max_tokens=3, guide=guide)


def test_a_missing_ability_is_refused_by_name() -> None:
    asked = Request([1], Sampling(1, min_p=0.1, logprobs=2, presence_penalty=1.0))
    with pytest.raises(ConfigError) as caught:
        check(frozenset({Ability.LOGPROBS}), [asked], "small")
    assert caught.value.problems == [
        "the small engine has no min_p",
        "the small engine has no penalties",
    ]
