"""Batches step by step, against transformers' own generate and against every answer alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import tiny
from swift.chat.load import load_tokenizer
from swift.config.tuner import LoraSection
from swift.infer.backends import together
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Completion, Request, Sampling
from swift.models.load import load_model
from swift.tune.lora import attach


def near(ours: Completion, theirs: Completion) -> None:
    assert (ours.tokens, ours.finish_reason) == (theirs.tokens, theirs.finish_reason)
    for name in ("logprobs", "drawn_logprobs"):
        mine, right = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (right is None)
        torch.testing.assert_close(mine or [], right or [], rtol=1e-4, atol=1e-5)


def engine_of(checkpoint: Path, *, joins: bool | None = None) -> TransformersEngine:
    model = load_model(checkpoint, torch.float32, device=torch.device("cpu"))
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    if joins is not None:
        engine.__dict__["_can_join"] = joins
    return engine


def requests(seed: int) -> list[Request]:
    """Several answers to some prompts, drawn and greedy, that end at different times."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(3, 400) for _ in range(draw.randint(1, 40))] for _ in range(4)]
    stops = tuple(draw.sample(range(3, 400), 60))
    return [
        Request(
            list(draw.choice(prompts)),
            Sampling(draw.randint(1, 12), draw.choice([0.0, 1.0]), draw.choice([1.0, 0.9]),
                     stop_ids=stops, seed=i, logprobs=0),
        )
        for i in range(draw.randint(2, 14))
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_what_transformers_generates(checkpoint: Path, seed: int) -> None:
    asked = requests(seed)
    ours = engine_of(checkpoint, joins=True).generate(asked)
    theirs = engine_of(checkpoint, joins=False).generate(asked)
    for mine, right in zip(ours, theirs, strict=True):
        near(mine, right)


def test_every_answer_is_what_it_is_alone(checkpoint: Path) -> None:
    engine, asked = engine_of(checkpoint), requests(7)
    for completion, request in zip(engine.generate(asked), asked, strict=True):
        near(completion, engine.generate([request])[0])


def test_a_prompt_is_read_once_and_who_ended_costs_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint, torch.float32, device=torch.device("cpu"))
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    engine.generate([Request([5, 6], Sampling(1))] * 2)  # the trial whether rows can join
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    asked = [Request([5, 6, 7], Sampling(n)) for n in (1, 2, 4)] + [Request([8, 9], Sampling(4))]
    engine.generate(asked)
    assert shapes == [(2, 3), (3, 1), (2, 1), (2, 1)]
    shapes.clear()
    monkeypatch.setattr(together, "_READ", 5)  # so that the prompts are read one after another
    engine.generate(asked)
    assert shapes[:2] == [(1, 3), (1, 2)]


def test_rows_with_adapters_share_a_prompt_only_with_their_own(tmp_path: Path) -> None:
    base = tiny.save_checkpoint(tmp_path / "base")
    for number in range(2):
        torch.manual_seed(number)
        tuned = attach(LoraSection(rank=2), load_model(base, torch.float32), [], "")
        assert tuned.peft is not None
        for name, weight in tuned.peft.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        tuned.peft.save_pretrained(tmp_path / f"a{number}")
    engine = engine_of(base)
    for number in range(2):
        engine.load_adapter(f"a{number}", str(tmp_path / f"a{number}"))
    names = ["a0", None, "a1", "a0"]
    asked = [Request([5, 6, 7], Sampling(6, logprobs=0), adapter=name) for name in names]
    found = engine.generate(asked)
    for completion, request in zip(found, asked, strict=True):
        near(completion, engine.generate([request])[0])
    assert len({tuple(one.tokens) for one in found}) == 3
