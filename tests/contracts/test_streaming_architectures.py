"""Answers that join and leave a running batch come out as alone, for many architectures."""

from __future__ import annotations

import pytest
import torch

import tiny
from contracts.architecture import build
from contracts.test_architectures import KNOWN
from infer.test_stream import Streaming
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.attention import set_attention

ONE_BY_ONE = {
    "qwen3_next", "qwen3_5_text", "mamba", "mamba2", "falcon_h1", "jamba",
}  # fmt: skip
"""They carry a state along the row: no row can join, and they are answered in batches. The tiny
RecurrentGemma has no layer with attention, and transformers cannot generate from such a one."""


@pytest.mark.parametrize("model_type", [name for name in KNOWN if name != "recurrent_gemma"])
def test_streamed_equals_alone(model_type: str) -> None:
    model = build(model_type).float()
    engine = TransformersEngine(model, tiny.make_tokenizer())
    random = torch.Generator().manual_seed(0)
    top = min(100, model.get_input_embeddings().weight.shape[0])
    requests = [  # longer than the window of those that slide
        Request(torch.randint(3, top, (n,), generator=random).tolist(), Sampling(6 + n % 5))
        for n in (3, 25, 11, 40)
    ]
    alone = [engine.generate([request])[0] for request in requests]
    assert engine.generate(requests) == alone
    assert Streaming(engine).generate(requests) == alone
    assert engine.joins == (model_type not in ONE_BY_ONE)
    engine.close()


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_model_set_up_for_packs_generates(model_type: str) -> None:
    model = build(model_type).float()
    request = Request([5, 6, 7], Sampling(6))
    expected = TransformersEngine(model, tiny.make_tokenizer()).generate([request])
    set_attention(model, "packed")
    engine = TransformersEngine(model, tiny.make_tokenizer())
    assert engine.generate([request]) == expected
    assert model.config._attn_implementation == "packed"
