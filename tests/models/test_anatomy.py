"""Parts of a model are found by asking it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import tiny
from contracts.tiny_config import tiny_config
from swift.errors import ConfigError
from swift.models.anatomy import (
    body,
    census,
    decoder_layers,
    influence,
    output_head,
    size,
    vocabulary,
)


def test_a_llama_taken_apart() -> None:
    model = tiny.make_model()
    assert decoder_layers(model) is model.model.layers
    assert body(model) is model.model
    assert output_head(model) is model.lm_head
    assert vocabulary(model) == 400


def test_the_layers_of_a_model_that_sees_are_those_that_write() -> None:
    """Its tower of as many layers is larger."""
    config = tiny_config("gemma3")
    config.vision_config.intermediate_size = 2000
    model = AutoModelForCausalLM.from_config(config)
    assert len(model.model.vision_tower.encoder.layers) == len(decoder_layers(model))
    assert decoder_layers(model) is model.model.language_model.layers


def test_a_body_is_found_where_the_architecture_names_another() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("llama4_text"))
    assert model.base_model is model
    assert body(model) is model.model


def test_parts_that_are_missing_are_errors_naming_the_class() -> None:
    model = tiny.make_model()
    model.lm_head = None
    with pytest.raises(ConfigError, match="LlamaForCausalLM: no output head"):
        output_head(model)
    model.model.layers = None
    with pytest.raises(ConfigError, match="LlamaForCausalLM: no stack of decoder layers"):
        decoder_layers(model)


def test_the_census_counts_every_parameter_once() -> None:
    model = tiny.make_model(tie_word_embeddings=False)
    model.model.embed_tokens.requires_grad_(False)
    counted = census(model)
    assert sum(total for _, total, _ in counted) == sum(p.numel() for p in model.parameters())
    kinds = {name: (total, learning) for name, total, learning in counted}
    assert kinds["model.embed_tokens"] == (400 * 48, 0)
    assert kinds["model.layers.*.mlp.up_proj"] == (3 * 48 * 96, 3 * 48 * 96)


def test_size_counts_bytes() -> None:
    double = nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    assert size([double, nn.Parameter(torch.zeros(2))]) == 3 * 5 * 8 + 2 * 4


def test_influence_is_zero_exactly_where_there_is_no_path() -> None:
    model, tokens = tiny.make_model(), torch.arange(3, 15)[None]
    result, slope = influence(model, lambda: model(input_ids=tokens).logits[0], slice(0, 5))
    assert result.shape == (5, 400)
    assert slope.shape == (12, 48)
    reached = [bool(row.any()) for row in slope]
    assert reached == [True] * 5 + [False] * 7
