"""Layers that keep their weights in oneDNN's order compute what they did before."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from swift.chat.load import load_tokenizer
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Request, Sampling
from swift.models.prepacked import Prepacked, prepack

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
needs = pytest.mark.skipif(
    not prepack(nn.Sequential(nn.Linear(256, 256)), 1 << 30),
    reason="this PyTorch or this processor has no such products",
)


def model_of(dtype: torch.dtype = torch.float32, *, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def packed(model: nn.Module) -> list[Prepacked]:
    return [module for module in model.modules() if isinstance(module, Prepacked)]


@needs
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", [(1,), (0,), (7,), (64,), (3, 5), (130,)], ids=str)
@torch.no_grad()
def test_products_are_the_same(dtype: torch.dtype, bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(384, 256, bias).to(dtype)
    try:
        other = Prepacked(layer)
    except RuntimeError as error:
        pytest.skip(str(error))
    x = torch.randn(*shape, 384, dtype=dtype)
    wanted, found = layer(x), other(x)
    assert found.dtype == dtype and found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])
    turned = torch.randn(384, 9, dtype=dtype).T  # not contiguous
    torch.testing.assert_close(other(turned), layer(turned), rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@needs
def test_gradients_are_those_of_a_plain_layer() -> None:
    layer = nn.Linear(256, 256)
    other = Prepacked(copy.deepcopy(layer))
    x = torch.randn(4, 256)
    for one in (layer, other):
        one(x).square().sum().backward()
    assert layer.weight.grad is not None and other.weight.grad is not None
    assert torch.equal(layer.weight.grad, other.weight.grad)


@needs
@torch.no_grad()
def test_a_weight_that_changed_is_read_anew() -> None:
    torch.manual_seed(0)
    other = Prepacked(nn.Linear(256, 256))
    x = torch.randn(2, 256)
    other(x)
    other.weight.mul_(2)
    torch.testing.assert_close(other(x), nn.functional.linear(x, other.weight, other.bias))
    other.weight = nn.Parameter(torch.randn(256, 256) / 16)
    torch.testing.assert_close(other(x), nn.functional.linear(x, other.weight, other.bias))
    other.half()  # a precision that it has no products for
    torch.testing.assert_close(
        other(x.half()), nn.functional.linear(x.half(), other.weight, other.bias)
    )


@needs
@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied head"])
@torch.no_grad()
def test_a_model_answers_the_same(tied: bool) -> None:
    model = model_of(tied=tied)
    keys, plain = list(model.state_dict()), copy.deepcopy(model)
    assert prepack(model, 1 << 30)
    assert len(packed(model)) == 2 * 5 + 1  # key and value have too few weights
    assert list(model.state_dict()) == keys
    if tied:
        assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.randint(0, 320, (3, 20))
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)


@needs
def test_what_does_not_fit_or_gain_stays() -> None:
    model = model_of()
    size = sum(layer.weight.nbytes for layer in packed_of(model))
    assert not prepack(model, size - 1) and not packed(model)
    assert prepack(model, size)
    assert not prepack(model, 1 << 30)  # nothing is left to do
    assert not prepack(nn.Sequential(nn.Linear(8, 8)), 1 << 30)
    watched = nn.Sequential(nn.Linear(256, 256))
    watched[0].register_forward_hook(lambda *_: None)
    assert not prepack(watched, 1 << 30)
    assert not prepack(nn.Sequential(nn.Linear(256, 256).double()), 1 << 30)


def packed_of(model: LlamaForCausalLM) -> list[Prepacked]:
    other = copy.deepcopy(model)
    prepack(other, 1 << 30)
    return packed(other)


@needs
def test_an_engine_with_adapters_and_new_weights(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    model = model_of()
    adapted = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    plain = TransformersEngine(copy.deepcopy(model), tokenizer)
    assert prepack(model, 1 << 30)
    engine = TransformersEngine(model, tokenizer)
    asked = [Request([5, 6, 7 + n], Sampling(12)) for n in range(3)]
    asked.append(Request([9, 8], Sampling(12), adapter="a"))
    for one in (plain, engine):
        one.load_adapter("a", str(tmp_path))
    before = [one.tokens for one in engine.generate(asked)]
    assert before == [one.tokens for one in plain.generate(asked)]
    fresh = {name: torch.randn_like(p) * 0.05 for name, p in model_of().named_parameters()}
    for one in (plain, engine):
        one.unload_adapter("a")
        one.update_weights(fresh.items())
    after = [one.tokens for one in engine.generate(asked[:3])]
    assert after == [one.tokens for one in plain.generate(asked[:3])] and after != before[:3]
