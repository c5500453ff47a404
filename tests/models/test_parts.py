"""Towers, aligner and language model of popular architectures keep the contract;
bench/architectures.py --multimodal runs all.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING

import tiny
from contracts.media import media
from contracts.multimodal import POINTS, build
from contracts.tiny_multimodal import multimodal_types, tiny_multimodal
from swift.config.tuner import LoraSection
from swift.errors import ConfigError
from swift.models.anatomy import body, decoder_layers
from swift.models.load import auto_class, context_length, load_config, load_model, load_shape
from swift.models.parts import PARTS, Parts, count_parts, parts
from swift.models.recompute import recompute
from swift.tune.lora import attach

POPULAR = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5",
    "internvl", "gemma3", "smolvlm", "idefics2", "idefics3", "mistral3", "paligemma", "glm4v",
    "llama4", "mllama", "ovis2", "aya_vision", "kimi_k25", "minicpmv4_6", "qwen2_audio", "voxtral",
    "granite_speech", "audioflamingo3", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker",
)  # fmt: skip
KNOWN = [name for name in POPULAR if name in multimodal_types()]
"""An older transformers lacks the newest."""

EXPECTED = {
    "llava": Parts(
        vision=("model.vision_tower",),
        aligner=("model.multi_modal_projector",),
        language=("model.language_model", "lm_head"),
    ),
    "llava_next": Parts(
        vision=("model.vision_tower",),
        aligner=("model.image_newline", "model.multi_modal_projector"),
        language=("model.language_model", "lm_head"),
    ),
    "qwen2_vl": Parts(
        vision=("model.visual",),
        aligner=("model.visual.merger",),
        language=("model.language_model", "lm_head"),
    ),
    "qwen3_vl": Parts(
        vision=("model.visual",),
        aligner=("model.visual.merger", "model.visual.deepstack_merger_list"),
        language=("model.language_model", "lm_head"),
    ),
    "qwen2_audio": Parts(
        audio=("model.audio_tower",),
        aligner=("model.multi_modal_projector",),
        language=("model.language_model", "lm_head"),
    ),
    "qwen2_5_omni_thinker": Parts(
        vision=("model.visual",),
        audio=("model.audio_tower",),
        aligner=("model.audio_tower.proj", "model.visual.merger"),
        language=("model.language_model", "lm_head"),
    ),
    "llama4": Parts(
        vision=("vision_model",), aligner=("multi_modal_projector",), language=("language_model",)
    ),
}


def test_the_list_is_of_the_registry() -> None:
    assert len(KNOWN) >= len(POPULAR) - 3


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("model_type", KNOWN)
def test_contract(model_type: str, point: str, tmp_path: Path) -> None:
    POINTS[point](build(model_type), tmp_path)


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_tiny_model_is_tiny(model_type: str) -> None:
    assert sum(p.numel() for p in build(model_type).parameters()) < 3_000_000


@pytest.mark.parametrize("model_type", EXPECTED)
def test_modules_of_every_part(model_type: str) -> None:
    model = build(model_type)
    found = parts(model)
    assert found == EXPECTED[model_type]
    names = [name for name, _ in model.named_parameters()]
    owners = [found.of(name) for name in names]
    attach(LoraSection(freeze_vit=False, freeze_aligner=False), model, [], "")
    assert parts(model) == found  # an adapter hides nothing
    assert [found.of("base_model.model." + name) for name in names] == owners


def test_a_language_model_is_one_part() -> None:
    model = tiny.make_model()
    found = parts(model)
    assert found == Parts() and not found.several
    assert {found.of(name) for name, _ in model.named_parameters()} == {"language"}
    total = sum(p.numel() for p in model.parameters())
    assert count_parts(model, found) == [("language", total, total)]


def test_widths_that_are_all_the_same_hide_no_merger_and_make_none() -> None:
    """A tower may be as wide as the text."""
    config = tiny_multimodal("qwen2_vl")
    config.vision_config.embed_dim = config.text_config.hidden_size
    model = auto_class(config).from_config(config)
    assert parts(model).aligner == ("model.visual.merger",)
    config = tiny_multimodal("gemma3")  # its tower ends in a head that pools
    config.vision_config.hidden_size = config.text_config.hidden_size
    model = auto_class(config).from_config(config)
    assert parts(model).aligner == ("model.multi_modal_projector",)


def test_parameters_are_counted_by_part() -> None:
    model = build("llava")
    model.model.vision_tower.requires_grad_(False)
    counted = {
        part: (total, learning) for part, total, learning in count_parts(model, parts(model))
    }
    assert list(counted) == [part for part in PARTS if part != "audio"]
    assert sum(total for total, _ in counted.values()) == sum(p.numel() for p in model.parameters())
    assert counted["vision"][1] == 0 and counted["aligner"][0] == counted["aligner"][1]


def test_a_shape_has_the_same_parts(tmp_path: Path) -> None:
    model = build("qwen2_5_vl")
    model.save_pretrained(tmp_path)
    shape = load_shape(tmp_path, torch.bfloat16)
    assert type(shape) is type(model) and parts(shape) == parts(model)
    assert {p.device.type for p in shape.parameters()} == {"meta"}
    assert context_length(shape.config) == 128


def test_a_checkpoint_that_is_the_language_model_alone_is_loaded_as_such(tmp_path: Path) -> None:
    """Its configuration is that of the whole, but it says what it is."""
    config = tiny_multimodal("llama4")
    assert auto_class(config).__name__ == "AutoModelForMultimodalLM"
    config.architectures = ["Llama4ForCausalLM"]
    assert auto_class(config).__name__ == "AutoModelForCausalLM"


def test_of_several_models_in_one_the_writing_one_is_loaded(tmp_path: Path) -> None:
    model = build("qwen2_5_omni_thinker")
    config = CONFIG_MAPPING["qwen2_5_omni"]()
    config.thinker_config = model.config
    config.save_pretrained(tmp_path)
    weights = {f"thinker.{name}": weight for name, weight in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_config(tmp_path).model_type == "qwen2_5_omni_thinker"
    loaded = load_model(tmp_path, torch.float32)
    assert type(loaded) is type(model) is type(load_shape(tmp_path, torch.float32))
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_what_needs_media_with_every_text_is_refused(tmp_path: Path) -> None:
    build("blip-2").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="does not read a text alone"):
        load_model(tmp_path, torch.float32)


def test_the_layers_are_those_that_write_beside_larger_towers() -> None:
    config = tiny_multimodal("git")
    config.vision_config.num_hidden_layers = 6
    model = auto_class(config).from_config(config)
    assert decoder_layers(model) is model.git.encoder.layer
    assert parts(model).aligner == ("git.visual_projection",)


def test_the_body_is_without_the_head_where_the_architecture_names_none() -> None:
    model = build("llama4")
    assert body(model) is model.language_model.model


@pytest.mark.parametrize("towers", [True, False])
@pytest.mark.parametrize("language", [True, False])
@pytest.mark.parametrize("model_type", ["qwen2_vl", "llava", "qwen2_5_omni_thinker"])
def test_activations_are_computed_again_by_part(
    model_type: str, language: bool, towers: bool
) -> None:
    model = build(model_type)
    recompute(model, language=language, towers=towers, settings={"use_reentrant": False})
    found = parts(model)
    chosen: dict[str, set[bool]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "gradient_checkpointing"):
            chosen.setdefault(found.of(name), set()).add(module.gradient_checkpointing)
    assert chosen.pop("language") == {language}
    assert chosen and all(value == {towers} for value in chosen.values())


def test_activations_computed_again_give_the_same_gradients() -> None:
    model = build("qwen2_vl")
    inputs = media(model)["image"]

    def slopes(**chosen: bool) -> list[torch.Tensor]:
        recompute(model, settings={"use_reentrant": False}, **chosen)
        model.train()
        model.zero_grad()
        model(**inputs, use_cache=False).logits.square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = slopes(language=False, towers=False)
    for language, towers in ((True, False), (False, True), (True, True)):
        found = slopes(language=language, towers=towers)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_name_outside_of_every_part_is_the_language_models() -> None:
    found = Parts(vision=("eye",), aligner=("eye.end",), language=("text",))
    assert found.of("eye.layers.0.weight") == "vision"
    assert found.of("eye.end.weight") == "aligner"
    assert found.of("eyes.weight") == "language"
