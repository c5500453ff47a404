"""What an engine gets of a model that learns is the merged model, and the model is left alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny
from swift.tune.tuned import Tuned
from swift.tune.weights import current_weights

ADAPTERS: list[dict[str, Any]] = [
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    {"target_modules": ["q_proj"], "modules_to_save": ["norm", "input_layernorm"]},
]


def test_a_plain_model_gives_its_own_weights_once() -> None:
    model = tiny.make_model()
    found = dict(current_weights(Tuned(model), torch.float32))
    assert found.keys() == dict(model.named_parameters()).keys()  # the tied head is not among them
    assert all(found[name].data_ptr() == p.data_ptr() for name, p in model.named_parameters())


@pytest.mark.parametrize("settings", ADAPTERS, ids=lambda s: "+".join(s))
def test_an_adapter_is_merged(settings: dict[str, Any]) -> None:
    model = tiny.make_model()
    named = dict(model.named_parameters()).keys()
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **settings))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    before = {name: p.clone() for name, p in peft.named_parameters()}
    found = dict(current_weights(Tuned(model, peft), torch.float32))
    assert found.keys() == named
    after = dict(peft.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    merged = deepcopy(peft).merge_and_unload()
    expected = dict(merged.named_parameters())
    assert all(torch.equal(found[name], expected[name]) for name in named)
    plain = tiny.make_model(seed=2)
    plain.load_state_dict(found, strict=False)  # but for the head, which is tied
    ids = torch.randint(3, 400, (2, 16))
    peft.eval(), plain.eval()
    assert float((peft(input_ids=ids).logits - plain(input_ids=ids).logits).abs().max()) < 2e-5


def test_the_number_format_is_that_of_the_engine() -> None:
    found = dict(current_weights(Tuned(tiny.make_model()), torch.bfloat16))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
