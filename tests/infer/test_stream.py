"""Many callers of one engine at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from contracts.engines import PROMISES, PROMPTS, Subject
from swift.chat.load import load_tokenizer
from swift.errors import CheckpointError, ConfigError, ResourceError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.backends.window import Window
from swift.infer.engine import Completion, Piece, Request, Sampling

Model = Any


async def collect(pieces: AsyncIterator[Piece]) -> Completion:
    tokens: list[int] = []
    logprobs: list[float] = []
    top: list[dict[int, float]] = []
    known = False
    async for piece in pieces:
        tokens += piece.tokens
        known = piece.logprobs is not None
        logprobs += piece.logprobs or []
        top += piece.top_logprobs or []
    assert piece.finish_reason is not None
    return Completion(
        tokens, piece.finish_reason, logprobs if known else None, top if top else None
    )


class Streaming:
    """``generate`` by way of ``stream``: every request a caller of its own."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine, self.context = engine, engine.context

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        async def together() -> list[Completion]:
            return await asyncio.gather(*(collect(self.engine.stream(r)) for r in requests))

        return asyncio.run(together())


@pytest.fixture(scope="module")
def subject(checkpoint: Path) -> Iterator[Subject]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = load_tokenizer(checkpoint)
    engine = TransformersEngine(model, tokenizer)
    yield Subject(Streaming(engine), model, tokenizer)
    engine.close()


@pytest.fixture
def engine(subject: Subject) -> TransformersEngine:
    return subject.engine.engine


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_streaming_keeps(promise: Callable[[Subject], None], subject: Subject) -> None:
    if promise.__name__.startswith("logprobs"):
        pytest.skip("prompt_logprobs are not streamed; the next test has the others")
    promise(subject)


def test_a_pause_lasts_until_it_is_ended(subject: Subject, engine: TransformersEngine) -> None:
    plain, long = Request(PROMPTS[1], Sampling(4)), Request(PROMPTS[0], Sampling(200))
    found: list[Any] = []

    async def paused() -> Completion:
        pieces = engine.stream(long)
        first = await anext(pieces)
        await asyncio.to_thread(engine.pause)
        waiting = threading.Thread(target=lambda: found.extend(engine.generate([plain])))
        waiting.start()
        rest = asyncio.create_task(collect(pieces))
        await asyncio.sleep(0.2)
        assert not rest.done() and not found
        engine.update_weights(subject.model.state_dict().items())  # it still stands
        await asyncio.sleep(0.2)
        assert not rest.done() and not found
        engine.resume()
        await asyncio.to_thread(waiting.join, 10)
        whole = await rest
        return replace(whole, tokens=[*first.tokens, *whole.tokens])

    try:
        answer = asyncio.run(paused())
    finally:
        engine.resume()
    assert answer.tokens == subject.greedy(PROMPTS[0], 200)
    assert found[0].tokens == subject.greedy(PROMPTS[1], 4)


def test_logprobs_come_with_their_tokens(subject: Subject, engine: TransformersEngine) -> None:
    requests = [Request(p, Sampling(7, 1.0, seed=4, logprobs=n)) for n, p in enumerate(PROMPTS)]
    streamed, whole = subject.engine.generate(requests), engine.generate(requests)
    for one, other in zip(streamed, whole, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
        for a, b in zip(one.top_logprobs or [], other.top_logprobs or [], strict=True):
            assert list(a) == list(b)
    with pytest.raises(ConfigError, match="prompt_logprobs are not streamed"):
        engine.stream(Request([5], Sampling(2, prompt_logprobs=True)))


def test_callers_come_and_go_at_any_time(subject: Subject, engine: TransformersEngine) -> None:
    """Rows join late, leave early, are longer than all before; each is answered as if alone."""
    random = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 60, (24,), generator=random).tolist()
    requests = [
        Request(
            torch.randint(3, 400, (size,), generator=random).tolist(), Sampling(1 + (7 * size) % 40)
        )
        for size in [*sizes, 300, 2, 450]
    ]

    async def caller(number: int, request: Request) -> Completion:
        await asyncio.sleep(0.004 * number)
        return await collect(engine.stream(request))

    async def all_of_them() -> list[Completion]:
        return await asyncio.gather(*(caller(i, r) for i, r in enumerate(requests)))

    done = asyncio.run(all_of_them())
    assert [c.tokens for c in done] == [engine.generate([r])[0].tokens for r in requests]


def test_closing_the_iterator_ends_the_answer_and_nobody_elses(engine: TransformersEngine) -> None:
    long = Request(PROMPTS[0], Sampling(400))

    async def leave() -> Completion:
        other = asyncio.create_task(collect(engine.stream(Request(PROMPTS[1], Sampling(60)))))
        pieces = engine.stream(long)
        await anext(pieces)
        await pieces.aclose()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):  # a deadline is the caller's
                await collect(engine.stream(long))
        return await other

    assert (
        asyncio.run(leave()).tokens
        == engine.generate([Request(PROMPTS[1], Sampling(60))])[0].tokens
    )
    asyncio.run(idle(engine))


async def idle(engine: TransformersEngine) -> None:
    """Waits until nothing runs; fails when something runs on."""
    async with asyncio.timeout(5):
        while engine.busy:
            await asyncio.sleep(0.01)


def test_a_step_that_fails_ends_its_answers_and_the_engine_goes_on(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    asked = Request(PROMPTS[0], Sampling(30))

    def broken(*_: Any) -> None:
        raise ValueError("a kernel broke")

    async def talk() -> None:
        first = engine.stream(asked)
        second = engine.stream(asked)
        await anext(first)
        await anext(second)
        hook = model.lm_head.register_forward_pre_hook(broken)
        for pieces in (first, second):
            with pytest.raises(RuntimeError, match="a kernel broke"):
                await collect(pieces)
        with pytest.raises(RuntimeError, match="a kernel broke"):  # while its prompt is read
            await collect(engine.stream(asked))
        hook.remove()
        assert (await collect(engine.stream(asked))).tokens == engine.generate([asked])[0].tokens

    asyncio.run(talk())
    engine.close()


def test_close_ends_answers_as_cancelled(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))

    async def talk() -> Completion:
        task = asyncio.create_task(collect(engine.stream(Request(PROMPTS[0], Sampling(500)))))
        while not engine.busy:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)
        return await task

    assert asyncio.run(talk()).finish_reason == "cancelled"


def test_new_weights_are_used_from_the_next_token_on(checkpoint: Path) -> None:
    """The cache of the old weights is forgotten: what follows is what a fresh read gives."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine, other = TransformersEngine(model, load_tokenizer(checkpoint)), tiny.make_model(seed=5)

    async def talk() -> list[int]:
        tokens: list[int] = []
        async for piece in engine.stream(Request(PROMPTS[0], Sampling(120))):
            tokens += piece.tokens
            if len(tokens) == 3:
                await asyncio.to_thread(engine.update_weights, other.state_dict().items())
        return tokens

    tokens = asyncio.run(talk())
    engine.close()
    rest = Subject(engine, other.eval(), None)
    changed = next(
        n for n in range(3, 100) if rest.greedy([*PROMPTS[0], *tokens[:n]], 8) == tokens[n : n + 8]
    )
    assert rest.greedy([*PROMPTS[0], *tokens[:changed]], 120 - changed) == tokens[changed:]


@pytest.fixture(scope="module")
def adapters(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        settings = LoraConfig(r=2 * seed, target_modules="all-linear", init_lora_weights=False)
        folders.append(tmp_path_factory.mktemp("adapters") / f"v{seed}")
        get_peft_model(model, settings).save_pretrained(folders[-1])
    return folders


def merged(checkpoint: Path, adapter: Path) -> Model:
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def test_adapters_run_side_by_side_and_each_as_alone(
    checkpoint: Path, adapters: list[Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    alone = [merged(checkpoint, adapters[0]), plain, merged(checkpoint, adapters[1])]
    expected = [Subject(engine, m, None).greedy(PROMPTS[0], 16) for m in alone]
    assert len({tuple(tokens) for tokens in expected}) == 3
    requests = [Request(PROMPTS[0], Sampling(16), adapter=n) for n in ("v1.0", None, "second")]
    with pytest.raises(ConfigError, match=r"no adapter 'v1.0' is loaded"):
        engine.generate(requests)
    before, settings = [name for name, _ in model.named_modules()], model.generation_config
    engine.load_adapter("v1.0", str(adapters[0]))
    engine.load_adapter("second", str(adapters[1]))
    with pytest.raises(ConfigError, match="'second' is loaded already"):
        engine.load_adapter("second", str(adapters[1]))
    assert [c.tokens for c in engine.generate(requests)] == expected
    assert [c.tokens for c in Streaming(engine).generate(requests)] == expected
    engine.unload_adapter("v1.0")
    with pytest.raises(ConfigError, match=r"no adapter 'v1.0' is loaded \(loaded: second\)"):
        engine.stream(requests[0])
    assert [c.tokens for c in engine.generate(requests[1:])] == expected[1:]
    engine.unload_adapter("second")
    assert [name for name, _ in model.named_modules()] == before
    assert model.generation_config is settings
    assert engine.generate(requests[1:2])[0].tokens == expected[1]
    engine.close()


def test_an_adapter_is_unloaded_when_its_last_answer_has_ended(
    checkpoint: Path, adapters: list[Path]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    engine.load_adapter("one", str(adapters[0]))
    asked = Request(PROMPTS[0], Sampling(50), adapter="one")
    expected = engine.generate([asked])[0].tokens

    async def talk() -> list[int]:
        pieces = engine.stream(asked)
        tokens = [*(await anext(pieces)).tokens]
        leaving = asyncio.create_task(asyncio.to_thread(engine.unload_adapter, "one"))
        tokens += (await collect(pieces)).tokens
        await leaving
        return tokens

    assert asyncio.run(talk()) == expected
    with pytest.raises(ConfigError, match=r"\(loaded: none\)"):
        engine.stream(asked)
    engine.close()


def test_an_adapter_that_does_not_fit_leaves_the_model_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = tiny.make_model(hidden_size=32, intermediate_size=64)
    get_peft_model(other, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    dora = LoraConfig(target_modules=["q_proj"], use_dora=True)
    get_peft_model(tiny.make_model(), dora).save_pretrained(tmp_path / "b")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(CheckpointError, match="q_proj has 48 features in, the adapter 32"):
        engine.load_adapter("a", str(tmp_path / "a"))
    with pytest.raises(ConfigError, match="this one is DoRA; merge it"):
        engine.load_adapter("b", str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="nowhere"):
        engine.load_adapter("c", str(tmp_path / "nowhere"))
    assert [name for name, _ in model.named_modules()] == before


def test_a_proof_that_fails_ends_who_waits_and_is_tried_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    asked = Request(PROMPTS[0], Sampling(4))

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory is left")

    async def talk() -> list[int]:
        hook = model.lm_head.register_forward_pre_hook(full)
        with pytest.raises(ResourceError, match="memory ran out while generating"):
            await collect(engine.stream(asked))
        hook.remove()
        return (await collect(engine.stream(asked))).tokens

    assert asyncio.run(talk()) == engine.generate([asked])[0].tokens
    engine.close()


def test_a_row_that_cannot_join_ends_the_round_with_its_reason(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, load_tokenizer(checkpoint))
    asked = Request(PROMPTS[0], Sampling(200))

    async def talk() -> None:
        first = engine.stream(asked)
        await anext(first)

        def full(*_: Any) -> None:
            raise torch.OutOfMemoryError("no memory is left")

        with monkeypatch.context() as patch:
            patch.setattr(Window, "join", full)
            with pytest.raises(ResourceError, match="memory ran out"):
                await collect(engine.stream(asked))
        with pytest.raises(ResourceError, match="memory ran out"):
            await collect(first)
        short = Request(PROMPTS[0], Sampling(5))
        assert (await collect(engine.stream(short))).tokens == engine.generate([short])[0].tokens

    asyncio.run(talk())
    engine.close()
