"""Which parts of a model that reads media learn, and how fast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import tiny
from contracts.media import media
from contracts.multimodal import build
from swift import registry
from swift.config.optimizer import AdamWSection
from swift.config.parse import read
from swift.config.runs import SftConfig
from swift.config.tuner import FullSection, LoraSection
from swift.errors import ConfigError
from swift.models.parts import parts
from swift.tune import full, lora

ALL = {"freeze_vit": True, "freeze_aligner": True, "freeze_llm": True}


def learning(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("section", [FullSection, LoraSection])
def test_a_text_model_does_not_mind(section: Any) -> None:
    attach = full.attach if section is FullSection else lora.attach
    plain, model = tiny.make_model(), tiny.make_model()
    attach(section(), plain, [], "")
    attach(section(**ALL), model, [], "")
    assert learning(model) == learning(plain) != set()


@pytest.mark.parametrize("section", [FullSection, LoraSection])
def test_nothing_left_is_an_error_naming_the_flags(section: Any) -> None:
    attach = full.attach if section is FullSection else lora.attach
    with pytest.raises(ConfigError, match=r"--freeze_vit --freeze_aligner --freeze_llm: nothing"):
        attach(section(**ALL), build("llava"), [], "")


def test_names_win_over_parts() -> None:
    model = build("llava")
    section = FullSection(learn=["model.vision_tower.encoder.layers.1"], freeze=["lm_head"])
    full.attach(section, model, [], "")
    names = learning(model)
    assert any(name.startswith("model.vision_tower.encoder.layers.1.") for name in names)
    assert not any("layers.0." in name and "vision" in name for name in names)
    assert "lm_head.weight" not in names


def test_explicit_targets_are_taken_wherever_they_are() -> None:
    model = build("llava")
    peft = lora.attach(LoraSection(targets=["q_proj"]), model, [], "").peft
    found = parts(model)
    assert {found.of(name) for name in learning(peft)} == {"vision", "language"}
    model = build("llava")
    regex = r".*vision_tower.*\.fc1"
    peft = lora.attach(LoraSection(targets_regex=regex), model, [], "").peft
    assert {parts(model).of(name) for name in learning(peft)} == {"vision"}


def test_no_adapter_stands_beside_weights_that_are_read_past_their_module() -> None:
    model = build("gemma3")  # its tower has a head of torch's own attention
    pasts = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    assert pasts
    lora.attach(LoraSection(freeze_vit=False), model, [], "")
    names = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert any(name.endswith("self_attn.out_proj") for name in names)
    assert not any("head.attention" in name for name in names)


def make(model: nn.Module, **settings: float) -> torch.optim.Optimizer:
    found = parts(model)
    return registry.build(AdamWSection(**settings), model.named_parameters(), 1e-3, found.of)


def test_parts_learn_at_their_own_rates() -> None:
    model = build("qwen2_5_omni_thinker")
    optimizer = make(model, vit_lr=1e-5, aligner_lr=5e-3)
    found, names = parts(model), {id(p): name for name, p in model.named_parameters()}
    rates = {"vision": 1e-5, "audio": 1e-5, "aligner": 5e-3, "language": 1e-3}
    count = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            count += 1
            part = found.of(names[id(parameter)])
            assert group["lr"] == rates[part]
            assert group.get("share", 1.0) * 1e-3 == pytest.approx(rates[part])
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)
    assert count == len(names)
    assert "share" not in optimizer.param_groups[0]


def test_one_rate_makes_the_groups_that_a_text_model_has() -> None:
    model = build("llava")
    assert len(make(model).param_groups) == 2
    assert len(make(model, vit_lr=1e-3).param_groups) == 2


@pytest.mark.parametrize(
    ("setting", "flag"), [("vit_lr", "--freeze_vit"), ("aligner_lr", "--freeze_aligner")]
)
def test_a_rate_for_what_is_frozen_is_an_error(setting: str, flag: str) -> None:
    model = build("llava")
    full.attach(FullSection(), model, [], "")
    with pytest.raises(ConfigError, match=f"--{setting}: .*add {flag} false"):
        make(model, **{setting: 1e-4})
    with pytest.raises(ConfigError, match=f"--{setting}"):
        make(tiny.make_model(), **{setting: 1e-4})


def test_a_step_moves_each_part_by_its_rate() -> None:
    """Adam's first step is as long as the rate, whatever the gradient."""
    model = build("llava")
    inputs = media(model)["image"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make(model, vit_lr=1e-5, aligner_lr=1e-2, weight_decay=0.0)
    model(**inputs, use_cache=False).logits.square().mean().backward()
    optimizer.step()
    for name, rate in (
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", 1e-5),
        ("model.multi_modal_projector.linear_1.weight", 1e-2),
        ("model.language_model.layers.0.mlp.up_proj.weight", 1e-3),
    ):
        moved = (dict(model.named_parameters())[name] - before[name]).abs().max()
        assert float(moved) == pytest.approx(rate, rel=0.05)


def test_flags() -> None:
    line = """--model m --dataset a --freeze_vit false --freeze_aligner true --freeze_llm true
    --vision_tower_lr 1e-5 --aligner_lr 2e-5 --llm_lr 3e-5 --vit_gradient_checkpointing false"""
    config, _ = read(SftConfig, "sft", line.split())
    tuner, optimizer = config.tuner, config.optimizer
    assert (tuner.freeze_vit, tuner.freeze_aligner, tuner.freeze_llm) == (False, True, True)
    assert (optimizer.vit_lr, optimizer.aligner_lr, optimizer.learning_rate) == (1e-5, 2e-5, 3e-5)
    assert config.train.vit_gradient_checkpointing is False
