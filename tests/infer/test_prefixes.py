"""Prompts that begin alike are not read twice, and nothing else changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from contracts.engines import Subject
from swift.chat.load import load_tokenizer
from swift.infer.backends.prefixes import Prefixes, shared
from swift.infer.backends.stepper import Prompt
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling

SYSTEM = [(7 * i) % 300 + 20 for i in range(60)]


@pytest.fixture
def model(checkpoint: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture
def engine(model: Any, checkpoint: Path) -> Iterator[TransformersEngine]:
    made = TransformersEngine(model, load_tokenizer(checkpoint), kept=0.2)
    yield made
    made.close()


def ask(engine: TransformersEngine, *prompts: list[int], adapter: str | None = None) -> Any:
    """The answers to prompts that are asked at once."""

    async def one(prompt: list[int]) -> list[int]:
        request = Request(prompt, Sampling(8), adapter=adapter)
        return [t async for piece in engine.stream(request) for t in piece.tokens]

    async def all() -> list[list[int]]:
        return await asyncio.gather(*(one(prompt) for prompt in prompts))

    return asyncio.run(all())


def counted(model: Any) -> list[int]:
    """The widths of what a model reads from now on, beside single steps."""
    found: list[int] = []

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:
            found.append(given["input_ids"].shape[1])

    model.register_forward_pre_hook(note, with_kwargs=True)
    return found


def test_what_begins_alike_is_read_once_and_answered_the_same(
    model: Any, engine: TransformersEngine
) -> None:
    plain = Subject(engine, model, None)
    prompts = [[*SYSTEM, *range(50 + 9 * i, 55 + 9 * i)] for i in range(6)]
    meant = [plain.greedy(prompt, 8) for prompt in prompts]
    assert ask(engine, prompts[0]) == meant[:1]
    read = counted(model)
    assert ask(engine, *prompts) == meant
    assert sorted(read) == [5] * 5  # of the first only its last token, like a step
    longer = [*prompts[3], *meant[3], 9, 8, 7]
    assert ask(engine, longer) == [plain.greedy(longer, 8)]  # a conversation that goes on
    assert read[5] == 11


def test_an_engine_that_is_not_told_to_keeps_nothing(model: Any, checkpoint: Path) -> None:
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    read = counted(model)
    ask(engine, SYSTEM)
    ask(engine, SYSTEM)
    engine.close()
    assert read[-2:] == [60, 60]


def test_new_weights_read_all_anew(model: Any, engine: TransformersEngine) -> None:
    ask(engine, SYSTEM)
    other = tiny.make_model(seed=5).eval()
    engine.update_weights(other.state_dict().items())
    assert ask(engine, [*SYSTEM, 5]) == [Subject(engine, other, None).greedy([*SYSTEM, 5], 8)]


def test_an_adapter_reads_for_itself_and_so_does_its_successor(
    model: Any, engine: TransformersEngine, checkpoint: Path, tmp_path: Path
) -> None:
    meant = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base, settings).save_pretrained(tmp_path / str(seed))
        base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        merged = PeftModel.from_pretrained(base, tmp_path / str(seed)).merge_and_unload()
        meant.append(Subject(engine, merged.eval(), None).greedy([*SYSTEM, 5], 8))
    ask(engine, SYSTEM)
    for seed in (1, 2):
        engine.load_adapter("a", str(tmp_path / str(seed)))
        ask(engine, SYSTEM, adapter="a")
        assert ask(engine, [*SYSTEM, 5], adapter="a") == meant[seed - 1 : seed]
        engine.unload_adapter("a")


def read_prompt(tokens: list[int], adapter: str | None = None) -> Prompt:
    """A prompt whose keys and values are its tokens."""
    prompt = Prompt(tokens, adapter)
    keys = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None]
    prompt.cache.update(keys, -keys, 0)
    prompt.read = len(tokens)
    return prompt


def test_what_is_kept_has_a_bound_and_is_always_the_prompts_own() -> None:
    rng, prefixes, hits = random.Random(0), Prefixes(400), 0
    for _ in range(500):
        tokens = [rng.randint(0, 1)] * rng.randint(10, 40) + [
            rng.randint(0, 2) for _ in range(rng.randint(0, 30))
        ]
        prompt = Prompt(tokens, rng.choice([None, "a"]))
        prefixes.begin(prompt)
        assert prompt.read < len(tokens)
        if prompt.read:
            hits += 1
            [(keys, values)] = prompt.layers()
            assert keys.flatten().tolist() == tokens[: prompt.read] == (-values).flatten().tolist()
        prefixes.keep(read_prompt(tokens, prompt.adapter))
        assert sum(len(one.tokens) for one in prefixes._kept) <= 400
    assert hits > 300
    prefixes.drop("a")
    assert {one.adapter for one in prefixes._kept} == {None}


def test_shared_beginnings() -> None:
    rng = random.Random(1)
    for _ in range(300):
        one, other = ([rng.randint(0, 1) for _ in range(rng.randint(0, 12))] for _ in range(2))
        plain = 0
        while plain < min(len(one), len(other)) and one[plain] == other[plain]:
            plain += 1
        assert shared(one, other) == plain
