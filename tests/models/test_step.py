"""Attention of one token in half precision: as exact as PyTorch's own, and its place alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from swift.models import step
from swift.models.attention import attention_of
from swift.models.step import STEP, step_attention, use_steps


def heads(groups: int) -> nn.Module:
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True  # type: ignore[assignment]
    return module


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mask", ["none", "boolean", "added", "one for all"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("at_once", [1, 1 << 19], ids=["parted", "together"])
@torch.no_grad()
def test_it_is_as_exact_as_pytorch(
    dtype: torch.dtype, mask: str, rows: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "_AT_ONCE", at_once)
    torch.manual_seed(0)
    query = torch.randn(rows, 6, 1, 32).to(dtype)
    key, value = (torch.randn(rows, 2, 70, 32).to(dtype) for _ in range(2))
    seen = torch.ones(rows, 1, 1, 70, dtype=torch.bool)
    for row in range(rows if mask != "none" else 0):
        seen[row, ..., : 3 + 9 * row] = False
    seen = seen[:1] if mask == "one for all" else seen
    given: Any = None if mask == "none" else seen
    if mask == "added":
        given = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    found, weights = step_attention(heads(3), query, key, value, given, scaling=0.3)
    exact = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), seen, scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    own, _ = sdpa_attention_forward(heads(3), query, key, value, given, scaling=0.3)
    assert weights is None and found.shape == own.shape and found.dtype == dtype
    assert error(found, exact) <= 1.1 * error(own, exact)


@pytest.mark.parametrize("kind", ["many", "float32", "gradients"])
def test_everything_else_is_left_to_pytorch(kind: str) -> None:
    torch.manual_seed(0)
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    query = torch.randn(2, 6, 3 if kind == "many" else 1, 32).to(dtype)
    key, value = (torch.randn(2, 2, 9, 32).to(dtype) for _ in range(2))
    with torch.set_grad_enabled(kind == "gradients"):
        found, _ = step_attention(heads(3), query, key, value, None)
        own, _ = sdpa_attention_forward(heads(3), query, key, value, None)
    assert torch.equal(found, own)
    with pytest.raises(ValueError, match="softcap"), torch.no_grad():
        step_attention(heads(3), query, key, value, None, softcap=30.0)


def model_of(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


@torch.no_grad()
def test_a_model_in_half_precision_is_as_near_to_float32() -> None:
    exact, plain, quick = (model_of(torch.bfloat16) for _ in range(3))
    exact = exact.float()
    assert use_steps(quick) and attention_of(quick) == STEP
    ids = torch.randint(0, 99, (3, 40))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0

    def last(model: LlamaForCausalLM) -> torch.Tensor:
        read = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
        return model(
            input_ids=ids[:, -1:], attention_mask=mask, past_key_values=read.past_key_values
        ).logits

    wanted = last(exact).double()
    assert error(last(quick), wanted) <= 1.1 * error(last(plain), wanted)


def test_only_where_it_gains() -> None:
    assert not use_steps(model_of(torch.float32))
    eager = model_of(torch.bfloat16)
    eager.set_attn_implementation("eager")
    assert not use_steps(eager) and attention_of(eager) == "eager"
