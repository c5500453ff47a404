"""Adapters: they start as nothing, learn alone, and are PEFT's to everybody else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny
from contracts.tiny_config import tiny_config
from swift.config.tuner import LoraSection
from swift.errors import CheckpointError, ConfigError
from swift.models.attention import choose_layout
from swift.models.heads import find_head
from swift.tune.layer import LoraLinear
from swift.tune.lora import attach, load_adapter
from swift.tune.tuned import Tuned

TOKENS = torch.arange(3, 60)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def attached(model: PreTrainedModel | None = None, **settings: Any) -> Tuned:
    torch.manual_seed(0)
    return attach(LoraSection(**settings), model or tiny.make_model(), [], "some/base")


def move(model: PreTrainedModel) -> None:
    """Change everything that learns, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def learning(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def adapted(model: PreTrainedModel) -> set[str]:
    """Ends of the names of modules with an adapter."""
    found = {name for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    return {name.rpartition(".")[2] for name in found}


@pytest.mark.parametrize("settings", [{}, {"rslora": True}, {"dropout": 0.3}, {"rank": 1}])
def test_a_new_adapter_changes_no_bit(settings: dict[str, Any]) -> None:
    model = tiny.make_model()
    before = logits(model)
    attached(model, **settings)
    assert torch.equal(logits(model.eval()), before)


def test_a_new_dora_adapter_changes_nothing_but_rounding() -> None:
    """It divides each row of the weight by its size and multiplies it again."""
    model = tiny.make_model()
    before = logits(model)
    attached(model, dora=True)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


def test_all_linear_layers_but_the_head_get_our_layer() -> None:
    model = attached().model
    found = [m for m in model.modules() if isinstance(m, LoraLayer)]
    assert len(found) == 3 * 7
    assert all(type(layer) is LoraLinear for layer in found)
    assert "lm_head" not in adapted(model)


def test_only_the_adapter_learns() -> None:
    model = attached().model
    move(model)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert (parameter.grad is not None) == parameter.requires_grad
        assert not parameter.requires_grad or parameter.grad.norm() > 0, name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"targets": ["q_proj", "v_proj"]}, {"q_proj", "v_proj"}),
        ({"targets": ["lm_head"]}, {"lm_head"}),
        ({"targets_regex": r".*layers\.[01]\.mlp\.(up|down)_proj"}, {"up_proj", "down_proj"}),
    ],
)
def test_targets_choose_the_modules(settings: dict[str, Any], expected: set[str]) -> None:
    assert adapted(attached(**settings).model) == expected


@pytest.mark.parametrize("settings", [{"targets": ["query"]}, {"targets_regex": "nothing"}])
def test_unknown_targets_are_an_error_naming_what_is_there(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--target_modules: .*q_proj, up_proj, v_proj"):
        attached(**settings)


def test_the_settings_reach_peft() -> None:
    peft = attached(rank=5, alpha=7.5, dropout=0.1, rslora=True, dora=True).peft
    assert peft is not None
    found = peft.peft_config["default"]
    assert (found.r, found.lora_alpha, found.lora_dropout) == (5, 7.5, 0.1)
    assert found.use_rslora and found.use_dora and found.task_type == "CAUSAL_LM"
    assert found.base_model_name_or_path == "some/base"


@pytest.mark.parametrize(
    "settings",
    [{}, {"rslora": True}, {"dora": True}, {"save_modules": ["lm_head"]}, {"targets": ["k_proj"]}],
)
def test_a_saved_adapter_is_the_same_for_plain_peft_and_for_us(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    tuned = attached(**settings)
    move(tuned.model)
    expected = logits(tuned.model)
    assert tuned.peft is not None
    tuned.peft.save_pretrained(str(tmp_path))
    plain = PeftModel.from_pretrained(tiny.make_model(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)
    ours = tiny.make_model()
    load_adapter(ours, str(tmp_path))
    assert torch.equal(logits(ours), expected)
    assert not any(p.requires_grad for p in ours.parameters())


def test_an_adapter_is_trained_on(tmp_path: Path) -> None:
    first = attached(save_modules=["lm_head"])
    move(first.model)
    assert first.peft is not None
    first.peft.save_pretrained(str(tmp_path))
    second = attach(LoraSection(), tiny.make_model(), [str(tmp_path)], "another/base")
    assert torch.equal(logits(second.model), logits(first.model))
    learning = [
        {n for n, p in t.model.named_parameters() if p.requires_grad} for t in (first, second)
    ]
    assert learning[0] == learning[1]
    assert second.peft.peft_config["default"].base_model_name_or_path == "another/base"


def test_two_adapters_at_a_time_are_an_error() -> None:
    with pytest.raises(ConfigError, match="one adapter is trained at a time"):
        attach(LoraSection(), tiny.make_model(), ["a", "b"], "base")


def in_bfloat16(**settings: Any) -> Tuned:
    return attached(tiny.make_model(tie_word_embeddings=False).bfloat16(), **settings)


def test_whole_modules_learn_in_float32_beside_a_bfloat16_model(tmp_path: Path) -> None:
    """A step of 1e-4 of a weight is lost in bfloat16."""
    tuned = in_bfloat16(save_modules=["lm_head", "embed_tokens"], targets=["q_proj"])
    learned, head = learning(tuned.model), "lm_head.modules_to_save.default.weight"
    assert all(p.dtype == torch.float32 for p in learned.values())
    base = tiny.make_model(tie_word_embeddings=False).bfloat16()
    assert torch.equal(logits(tuned.model), logits(base))
    move(tuned.model)
    assert [id(p) for p in find_head(tuned.model).learning()] == [id(learned[head])]
    assert choose_layout(tuned.model).packed
    tuned.peft.save_pretrained(str(tmp_path))
    again = attach(LoraSection(), base, [str(tmp_path)], "base")
    for name, parameter in again.model.named_parameters():
        assert name not in learned or torch.equal(parameter, learned[name]), name
    assert torch.equal(logits(again.model), logits(tuned.model))


@pytest.mark.parametrize("autocast", [False, True])
def test_whole_modules_beside_a_bfloat16_model_get_gradients(autocast: bool) -> None:
    tuned = in_bfloat16(save_modules=["lm_head", "embed_tokens"], targets=["q_proj"])
    move(tuned.model)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tuned.model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in tuned.model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.norm() > 0, name


@pytest.mark.parametrize("model_type", ["mamba", "jamba", "falcon_h1", "llama4_text", "phimoe"])
def test_no_adapter_stands_where_it_would_do_nothing(model_type: str) -> None:
    """Kernels read weights past their modules, routers return more than a product."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    attached(model)
    move(model)
    tokens = torch.arange(3, 60)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert learning(model)
    idle = [name for name, p in learning(model).items() if p.grad is None]
    assert not [name for name in idle if ".experts." not in name]  # some get no token


def test_a_shape_without_weights_takes_an_adapter_too() -> None:
    with torch.device("meta"):
        tuned = attached(AutoModelForCausalLM.from_config(tiny.make_config()))
    real = {name: p.shape for name, p in learning(attached().model).items()}
    assert {name: p.shape for name, p in learning(tuned.model).items()} == real
    assert all(p.device.type == "meta" for p in tuned.model.parameters())


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint-5"
    tuned = attached()
    move(tuned.model)
    tuned.peft.save_pretrained(str(folder))
    return folder


def test_a_folder_without_adapter_is_an_error_that_points_to_one(adapter: Path) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {re.escape(str(adapter))}"):
        load_adapter(tiny.make_model(), str(adapter.parent))
    with pytest.raises(ConfigError, match=r"nowhere holds no adapter_config\.json"):
        load_adapter(tiny.make_model(), str(adapter / "nowhere"))


def test_an_adapter_of_another_size_is_an_error(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_adapter(tiny.make_model(hidden_size=64), str(adapter))


@pytest.mark.parametrize("layers", [2, 4])
def test_an_adapter_of_another_depth_is_an_error(adapter: Path, layers: int) -> None:
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_adapter(tiny.make_model(num_hidden_layers=layers), str(adapter))


def test_an_adapter_that_lacks_weights_is_an_error(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.lora_B"):
        load_adapter(tiny.make_model(), str(adapter))


def test_a_broken_file_is_an_error(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_adapter(tiny.make_model(), str(adapter))


def test_settings_that_cannot_be_read_are_an_error(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "NEW"}))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_adapter(tiny.make_model(), str(adapter))
