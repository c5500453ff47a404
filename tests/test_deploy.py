"""Engines for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from swift.chat.load import load_renderer
from swift.chat.message import Message
from swift.deploy import TransformersEngine, VllmEngine
from swift.errors import ConfigError, ServerError
from swift.infer.engine import Guide, Request, Sampling

USER = {"role": "user", "content": "Who are you?"}


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[TransformersEngine]:
    with TransformersEngine.from_pretrained(str(checkpoint), max_model_len=128) as one:
        yield one


def test_a_text_is_gone_on_with(engine: TransformersEngine, checkpoint: Path) -> None:
    renderer = load_renderer(checkpoint)
    ids = renderer.tokenizer.encode("The capital of", specials=True).ids
    [expected] = engine.engine.generate(
        [Request(ids, Sampling(9, stop_ids=tuple(sorted(renderer.stop_ids))))]
    )
    found = engine.generate("The capital of", max_tokens=9)
    assert found.completion == expected == engine.generate(ids, max_tokens=9).completion
    assert found.text == renderer.tokenizer.decode(expected.tokens)
    several = engine.generate(["The capital of", "Swifts"], max_tokens=9)
    assert several[0] == found and len(several) == 2


def test_messages_are_answered_by_the_template(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    renderer = load_renderer(checkpoint)
    ids = renderer.prompt([Message("user", "Who are you?")])
    stops = tuple(sorted(renderer.stop_ids))
    [expected] = engine.engine.generate([Request(ids, Sampling(7, stop_ids=stops, logprobs=0))])
    found = engine.infer([USER], max_tokens=7, logprobs=0)
    assert found.completion == expected
    assert found.message is not None and found.text == found.message.content
    several = engine.infer([[USER], [USER]], max_tokens=7)
    assert [one.message for one in several] == [found.message] * 2
    guide = Guide("choice", ("yes", "no"))
    assert engine.infer([USER], max_tokens=7, guide=guide).text in ("yes", "no")


def test_settings_reach_the_engine_and_wrong_ones_are_named(
    engine: TransformersEngine, checkpoint: Path
) -> None:
    assert engine.engine.context == 128
    with pytest.raises(ConfigError, match="max_new_tokens: sampling has max_tokens, temperature"):
        engine.generate("a", max_new_tokens=3)
    with pytest.raises(ConfigError, match="tensor_parallel_sise"):
        VllmEngine.from_pretrained(str(checkpoint), tensor_parallel_sise=1)


def test_vllm_gets_its_settings_without_their_prefix(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"  # a vLLM that only says how it was called
    python.write_text('#!/bin/sh\necho "called $@"\nexit 1\n')
    python.chmod(0o755)
    called = f"--model {checkpoint} .* --tensor-parallel-size 2 .*--max-model-len 64"
    with pytest.raises(ServerError, match=called):
        VllmEngine.from_pretrained(
            str(checkpoint), tensor_parallel_size=2, max_model_len=64, engine_python=str(python)
        )
    assert torch.is_grad_enabled()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_where_vllm_is_not_installed_another_python_is_asked_for(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="--engine_python path/to/python"):
        VllmEngine.from_pretrained(str(checkpoint))
