"""Our LoRA layer against PEFT's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from swift.models.kernels import fast_linear
from swift.tune.layer import LoraLinear

K, N, R = 24, 40, 4
SHAPES = [(5, K), (2, 3, K), (1, 2, 3, K), (K,)]


class Toy(nn.Module):
    def __init__(self, bias: bool, inputs: int = K, outputs: int = N) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def pair(
    *,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    sizes: tuple[int, int] = (K, N),
    **settings: Any,
) -> tuple[PeftModel, PeftModel]:
    """The same adapter beside the same weights: PEFT's layer and ours."""
    made = []
    for ours in (False, True):
        torch.manual_seed(0)
        config = LoraConfig(r=R, lora_alpha=8, target_modules=["layer"], **settings)
        if ours:
            config._register_custom_module({nn.Linear: LoraLinear})
        made.append(get_peft_model(Toy(bias, *sizes).to(dtype), config))
        torch.manual_seed(1)
        for name, parameter in made[-1].named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    theirs, mine = made
    assert type(layer_of(theirs)) is PeftLinear and type(layer_of(mine)) is LoraLinear
    return theirs, mine


def layer_of(peft: PeftModel) -> Any:
    return peft.base_model.model.layer


def results(peft: PeftModel, x: torch.Tensor) -> list[torch.Tensor]:
    """Output and the gradients of input and adapter."""
    torch.manual_seed(2)
    x = x.clone().requires_grad_() if x.is_contiguous() else x.detach().requires_grad_()
    out = peft(x)
    torch.manual_seed(3)
    out.backward(torch.randn(out.shape).to(out))
    learned = [p.grad for p in peft.parameters() if p.requires_grad]
    assert len(learned) >= 2
    return [out.detach(), x.grad, *learned]


def agree(pefts: tuple[PeftModel, PeftModel], x: torch.Tensor, bound: float = 1e-5) -> None:
    theirs, ours = (results(peft, x) for peft in pefts)
    for found, expected in zip(ours, theirs, strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        difference = (found.float() - expected.float()).norm()
        assert difference <= bound * expected.float().norm()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_result_and_gradients_are_those_of_peft(shape: tuple[int, ...], bias: bool) -> None:
    pefts = pair(bias=bias)
    assert layer_of(pefts[1])._only_adapter() == "default"
    agree(pefts, torch.randn(shape))


def test_inputs_of_any_strides() -> None:
    agree(pair(), torch.randn(2, K, 7).mT)
    agree(pair(), torch.randn(2, 7, 2 * K)[..., ::2])


def test_shapes_that_the_fast_kernel_takes() -> None:
    with fast_linear():
        agree(pair(sizes=(256, 512)), torch.randn(2, 128, 256))


def test_no_rows_at_all() -> None:
    """As an expert gets to which no token was sent."""
    agree(pair(), torch.randn(0, K))


def test_rslora() -> None:
    pefts = pair(use_rslora=True)
    assert layer_of(pefts[1])._only_adapter() == "default"
    assert layer_of(pefts[1]).scaling["default"] == 8 / R**0.5
    agree(pefts, torch.randn(5, K))


def test_a_bfloat16_base_with_a_float32_adapter() -> None:
    """PEFT computes the update in float32, we in the base's format: bfloat16 keeps 8 bits, and the
    gradient of A passes through two rounded products.
    """
    pefts = pair(dtype=torch.bfloat16)
    assert layer_of(pefts[1]).lora_A["default"].weight.dtype == torch.float32
    agree(pefts, torch.randn(64, K).to(torch.bfloat16), bound=2e-2)


def test_float32_inputs_to_a_bfloat16_base() -> None:
    """As norms hand on under autocast."""
    _, ours = pair(dtype=torch.bfloat16)
    x = torch.randn(6, K)
    assert torch.equal(ours(x), ours(x.to(torch.bfloat16)))


def test_autocast_computes_in_its_own_format() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        agree(pair(), torch.randn(5, K))


GOES_THE_WAY_OF_PEFT: list[dict[str, Any]] = [
    {"lora_dropout": 0.5},
    {"use_dora": True},
    {"lora_bias": True},
]


@pytest.mark.parametrize("settings", GOES_THE_WAY_OF_PEFT)
def test_what_is_not_plain_goes_the_way_of_peft_to_the_bit(settings: dict[str, Any]) -> None:
    pefts = pair(**settings)
    assert layer_of(pefts[1])._only_adapter() is None
    agree(pefts, torch.randn(5, K), bound=0.0)


def test_without_dropout_while_evaluating() -> None:
    theirs, ours = (peft.eval() for peft in pair(lora_dropout=0.5))
    x = torch.randn(5, K)
    assert torch.equal(ours(x), theirs(x))


def test_a_base_that_learns_gets_its_gradient() -> None:
    pefts = pair()
    for peft in pefts:
        layer_of(peft).base_layer.requires_grad_(True)
    assert layer_of(pefts[1])._only_adapter() is None
    agree(pefts, torch.randn(5, K))


def test_a_disabled_adapter_leaves_the_base() -> None:
    _, ours = pair()
    x = torch.randn(5, K)
    with ours.disable_adapter():
        assert torch.equal(ours(x), layer_of(ours).base_layer(x))
    assert not torch.allclose(ours(x), layer_of(ours).base_layer(x))


def test_a_merged_adapter_is_not_added_twice() -> None:
    _, ours = pair()
    x = torch.randn(5, K)
    before = ours(x)
    layer_of(ours).merge()
    torch.testing.assert_close(ours(x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("active", [["default"], ["second"], ["default", "second"]])
def test_of_two_adapters_the_active_ones_count(active: list[str]) -> None:
    pefts = pair()
    x = torch.randn(5, K)
    for peft in pefts:
        torch.manual_seed(4)
        config = LoraConfig(r=2, lora_alpha=6, target_modules=["layer"], init_lora_weights=False)
        peft.add_adapter("second", config)
        peft.base_model.set_adapter(active)
    agree(pefts, x)


def test_a_frozen_adapter_passes_the_gradient_on() -> None:
    for peft in pair():
        peft.requires_grad_(False)
        x = torch.randn(5, K, requires_grad=True)
        peft(x).sum().backward()
        assert x.grad.norm() > 0
        assert all(p.grad is None for p in peft.parameters())


def test_only_the_input_of_the_first_layer_needs_no_gradient() -> None:
    theirs, ours = pair()
    x = torch.randn(5, K)
    for peft in (theirs, ours):
        peft(x).square().sum().backward()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
