"""vLLM in this process keeps the promises of engines.py, with a tiny model in float32.

Run it with the Python of an environment that has vLLM (docs/engines.md).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from contracts.engines import PROMISES, PROMPTS, Subject, sayable, these_never_come
from contracts.vllm_setups import ASKED, SETUPS, SIZES, images_are_seen, seeing
from infer.test_stream import collect
from swift.chat.load import load_tokenizer
from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Ability, Piece, Request, Sampling
from swift.infer.start import here
from swift.models.load import load_model
from tiny import make_model, make_tokenizer, save_checkpoint

pytest.importorskip("vllm", reason="vLLM is not installed beside swift")
pytestmark = pytest.mark.slow
KEPT = [promise for promise in PROMISES if promise.__name__ != "bad_words_never_come"]


@contextmanager
def running(folder: Path, context: int = 256, **more: Any) -> Iterator[Subject]:
    model = save_checkpoint(folder / "model", **SIZES)
    settings = VllmSection(enforce_eager=True, max_num_seqs=16, **more)
    engine = here(model, settings, dtype="float32", context=context)
    try:
        yield Subject(engine, make_model(**SIZES).eval(), make_tokenizer())
    finally:
        engine.close()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with running(tmp_path_factory.mktemp("vllm")) as found:
        yield found


@pytest.mark.parametrize("promise", KEPT, ids=lambda promise: promise.__name__)
def test_vllm_keeps(promise: Callable[[Subject], None], subject: Subject) -> None:
    promise(subject)


def test_bad_words_never_come(subject: Subject) -> None:
    prompt, words = sayable(subject)
    these_never_come(subject, prompt, words)
    with pytest.raises(ConfigError, match="none forbids just the tokens"):
        subject.answer(prompt, max_tokens=8, bad_words=words[1:2])


def test_many_stream_at_once_what_is_generated(subject: Subject) -> None:
    asked = [Request(p, Sampling(9, logprobs=2)) for p in PROMPTS]

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(collect(subject.engine.stream(one)) for one in asked))

    assert asyncio.run(all_of_them()) == subject.engine.generate(asked)
    heard: list[int] = []
    [whole] = subject.engine.generate(asked[:1], on_token=heard.append)
    assert heard == whole.tokens == subject.greedy(PROMPTS[0], 9)


def test_logprobs_of_a_prompt_do_not_come_in_pieces(subject: Subject) -> None:
    asked = Request(PROMPTS[0], Sampling(2, prompt_logprobs=True))
    with pytest.raises(ConfigError, match="not streamed"):
        subject.engine.stream(asked)
    with pytest.raises(ConfigError, match="not streamed"):
        subject.engine.generate([asked], on_token=lambda _: None)


def test_leaving_a_stream_ends_its_answer(subject: Subject) -> None:
    async def first() -> Piece:
        pieces = subject.engine.stream(Request(PROMPTS[0], Sampling(240)))
        async for piece in pieces:
            await pieces.aclose()
            return piece
        raise AssertionError("no piece came")

    assert len(asyncio.run(first()).tokens) == 1
    engine = subject.engine._engine
    deadline = time.monotonic() + 5
    while engine.get_num_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.get_num_unfinished_requests() == 0


def test_a_deadline_ends_an_answer(subject: Subject) -> None:
    async def late() -> None:
        async with asyncio.timeout(0.05):
            await collect(subject.engine.stream(Request(PROMPTS[0], Sampling(240))))

    with pytest.raises(TimeoutError):
        asyncio.run(late())


def test_new_weights_are_those_of_the_next_answers(subject: Subject) -> None:
    other = make_model(**SIZES | {"seed": 2}).eval()
    asked = Request(PROMPTS[0], Sampling(12, logprobs=0))
    before = subject.engine.generate([asked])[0]
    try:
        subject.engine.update_weights(other.state_dict().items())
        found = subject.engine.generate([asked])[0]
        expected = TransformersEngine(other, subject.tokenizer).generate([asked])[0]
        assert found.tokens == expected.tokens != before.tokens
        assert found.logprobs == pytest.approx(expected.logprobs, abs=2e-5)
    finally:
        subject.engine.update_weights(subject.model.state_dict().items())
    assert subject.engine.generate([asked])[0] == before


def test_an_answer_goes_on_with_new_weights(subject: Subject) -> None:
    other = make_model(**SIZES | {"seed": 2}).eval()

    async def renewed() -> list[int]:
        tokens: list[int] = []
        async for piece in subject.engine.stream(Request(PROMPTS[0], Sampling(200))):
            tokens += piece.tokens
            if len(tokens) == 3:
                work = other.state_dict().items()
                await asyncio.to_thread(subject.engine.update_weights, work)
        return tokens

    try:
        tokens = asyncio.run(renewed())
    finally:
        subject.engine.update_weights(subject.model.state_dict().items())
    switched = Subject(subject.engine, other, subject.tokenizer)
    own = subject.greedy(PROMPTS[0], 200)
    at = next(i for i, (a, b) in enumerate(zip(tokens, own, strict=True)) if a != b)
    assert 3 <= at < 200 and tokens[at:] == switched.greedy([*PROMPTS[0], *tokens[:at]], 200 - at)


def test_a_pause_lasts_until_it_is_ended(subject: Subject) -> None:
    asked = Request(PROMPTS[1], Sampling(4))
    found: list[Any] = []
    subject.engine.pause()
    try:
        waiting = threading.Thread(target=lambda: found.extend(subject.engine.generate([asked])))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and not found
        subject.engine.update_weights(subject.model.state_dict().items())  # it still stands
        waiting.join(0.5)
        assert waiting.is_alive() and not found
    finally:
        subject.engine.resume()
    waiting.join(10)
    assert found[0].tokens == subject.greedy(PROMPTS[1], 4)


def test_what_it_lacks_is_refused(subject: Subject) -> None:
    assert Ability.SLEEP not in subject.engine.abilities
    with pytest.raises(ConfigError, match="no sleep"):
        subject.engine.sleep()
    with pytest.raises(ConfigError, match="no adapters"):
        subject.engine.load_adapter("a", "somewhere")
    with pytest.raises(ConfigError, match="the vllm engine has no adapters"):
        subject.engine.generate([Request([5], Sampling(1), adapter="a")])
    with pytest.raises(ConfigError, match="vLLM refuses it"):
        subject.engine.generate([Request([5], Sampling(1, logprobs=99))])
    wrong = [("model.nothing.weight", 3), ("model.norm.weight", 3), ("model.norm.weight", 128)]
    whys = ["has no model.nothing", r"\(128,\), not \(3,\)", "model.embed_tokens.* did not come"]
    for (name, size), why in zip(wrong, whys, strict=True):
        with pytest.raises(ConfigError, match=why):
            subject.engine.update_weights([(name, torch.zeros(size))])
    assert subject.answer(PROMPTS[0], max_tokens=3) == subject.greedy(PROMPTS[0], 3)


def test_adapters_come_and_go(tmp_path: Path) -> None:
    with running(tmp_path, max_lora_rank=8) as subject:
        torch.manual_seed(0)
        settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        peft = get_peft_model(subject.model, settings)
        peft.save_pretrained(tmp_path / "adapter")
        asked = Request([5, 6, 7, 8, 9, 10], Sampling(8))
        own = TransformersEngine(subject.model, subject.tokenizer)
        changed = own.generate([asked])[0]
        peft.unload()
        plain = own.generate([asked])[0]
        subject.engine.load_adapter("new", str(tmp_path / "adapter"))
        found = subject.engine.generate([asked, replace(asked, adapter="new")])
        assert [c.tokens for c in found] == [plain.tokens, changed.tokens]
        assert plain.tokens != changed.tokens
        with pytest.raises(ConfigError, match="loaded already"):
            subject.engine.load_adapter("new", str(tmp_path / "adapter"))
        subject.engine.unload_adapter("new")
        with pytest.raises(ConfigError, match="no adapter 'new'"):
            subject.engine.generate([replace(asked, adapter="new")])
        with pytest.raises(ConfigError, match="cannot be loaded"):
            subject.engine.load_adapter("worse", str(tmp_path / "nothing"))
        with pytest.raises(ConfigError, match="has no prompt_logprobs"):  # they would end it
            subject.engine.generate([Request([5, 6], Sampling(1, prompt_logprobs=True))])

        async def cut() -> Any:
            tokens = 0
            async for piece in subject.engine.stream(Request([5, 6, 7], Sampling(240))):
                tokens += len(piece.tokens)
                if tokens == 3:
                    await asyncio.to_thread(subject.engine.close)
            return tokens, piece.finish_reason

        tokens, why = asyncio.run(cut())
        assert 3 <= tokens < 240 and why == "cancelled"
        with pytest.raises(ConfigError, match="is closed"):
            subject.engine.generate([asked])


def test_images_are_seen_as_the_model_itself_sees_them(tmp_path: Path) -> None:
    model, renderer, requests = seeing(tmp_path)
    own = TransformersEngine(
        load_model(model, torch.float32), load_tokenizer(model), marks=lambda: renderer.marks
    )
    settings = VllmSection(enforce_eager=True, max_num_seqs=4)
    engine = here(model, settings, dtype="float32", marks=lambda: renderer.marks)
    try:
        images_are_seen(engine, own, requests)
    finally:
        engine.close()


@pytest.mark.parametrize("setup", SETUPS.values(), ids=list(SETUPS))
def test_every_setup_answers_alike(setup: dict[str, Any], tmp_path: Path) -> None:
    with running(tmp_path, **setup) as subject:
        for promise in ASKED:
            promise(subject)


def test_both_kinds_of_logprobs(tmp_path: Path) -> None:
    """Of what was drawn from, against the embedded engine's; and of the model itself."""
    rules: dict[str, Any]
    with running(tmp_path, context=32, drawn_logprobs=True) as subject:
        assert subject.engine.context == 31
        for rules in (
            {"temperature": 1.0},
            {"temperature": 0.7},
            {"temperature": 1.3, "top_k": 7},
            {"temperature": 0.9, "top_p": 0.8},
            {"temperature": 1.1, "min_p": 0.05, "repetition_penalty": 1.4},
            {"temperature": 0.0, "presence_penalty": 1.5},
        ):
            prompt = PROMPTS[0]
            asked = Request(prompt, Sampling(40, seed=3, logprobs=0, **rules))
            [found] = subject.engine.generate([asked])
            assert len(found.tokens) == 31 - len(prompt)
            known = subject.believed([*prompt, *found.tokens])[len(prompt) - 1 : -1]
            chosen = torch.tensor(found.tokens)[:, None]
            assert found.logprobs == pytest.approx(known.gather(1, chosen)[:, 0].tolist(), abs=2e-5)
            if not rules["temperature"]:
                assert found.drawn_logprobs is None
                continue
            expected = drawn(subject, prompt, found.tokens, asked.sampling)
            assert found.drawn_logprobs == pytest.approx(expected, abs=5e-5)
        with pytest.raises(ConfigError, match="plain draws alone"):
            subject.engine.stream(Request([5], Sampling(3, 0.7, logprobs=0)))
        with pytest.raises(ConfigError, match="plain draws alone"):
            subject.engine.generate([Request([5], Sampling(3, 0.7, logprobs=2))])


def drawn(subject: Subject, prompt: list[int], tokens: list[int], s: Sampling) -> list[float]:
    """By the rules, one token after another."""
    found = []
    for i, token in enumerate(tokens):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *tokens[:i]]])
            logits = subject.model(input_ids=ids, use_cache=False).logits[0, -1].double()
        for seen in {*prompt, *tokens[:i]}:
            by = s.repetition_penalty
            logits[seen] = logits[seen] / by if logits[seen] > 0 else logits[seen] * by
        p = (logits / s.temperature).softmax(-1)
        if s.top_k:
            p = torch.where(p >= p.topk(s.top_k).values[-1], p, 0.0)
        p = torch.where(p >= s.min_p * p.max(), p, 0.0)
        ordered, order = (p / p.sum()).sort(descending=True)
        p = torch.zeros_like(p)
        p[order] = torch.where(ordered.cumsum(0) - ordered < s.top_p, ordered, 0.0)
        found.append(float((p / p.sum())[token].log()))
    return found
