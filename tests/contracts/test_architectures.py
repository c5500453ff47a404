"""Popular architectures of transformers keep the contract; bench/architectures.py runs all."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from contracts.architecture import POINTS, build
from contracts.tiny_config import tiny_config

POPULAR = (
    "llama", "mistral", "mixtral", "ministral3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "qwen3_next", "qwen3_5_text", "gemma", "gemma2", "gemma3_text", "gemma3", "gemma4_text", "phi",
    "phi3", "phimoe", "gpt2", "gpt_neo", "gpt_neox", "gpt_oss", "falcon", "bloom", "opt", "olmo2",
    "olmoe", "cohere", "cohere2", "granite", "granitemoe", "stablelm", "starcoder2", "deepseek_v3",
    "glm4", "glm4_moe", "smollm3", "llama4_text", "minicpm3", "internlm3", "seed_oss", "mamba",
    "mamba2", "falcon_h1", "recurrent_gemma", "jamba",
)  # fmt: skip

PADDED = {
    "falcon", "bloom", "llama4_text", "mamba", "mamba2", "falcon_h1", "recurrent_gemma", "jamba",
    "qwen3_next", "qwen3_5_text",
}  # fmt: skip
"""Falcon and Bloom do not tell their attention of borders; Llama 4 scales its attention by the
place in the row; the others carry a state along it."""


KNOWN = [name for name in POPULAR if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
"""An older transformers lacks the newest."""


def test_the_list_is_of_the_registry() -> None:
    assert len(KNOWN) >= len(POPULAR) - 1
    assert set(POPULAR) >= PADDED


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("model_type", KNOWN)
def test_contract(model_type: str, point: str, tmp_path: Path) -> None:
    found = POINTS[point](build(model_type), tmp_path)
    if point == "layout":
        assert found.endswith("padded" if model_type in PADDED else "packed")


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_layers_are_as_many_as_the_configuration_says(model_type: str) -> None:
    expected = tiny_config(model_type).get_text_config(decoder=True).num_hidden_layers
    found = POINTS["anatomy"](build(model_type), Path())
    assert found.startswith(f"{expected} x ")


@pytest.mark.parametrize("model_type", KNOWN)
def test_the_tiny_model_is_tiny(model_type: str) -> None:
    assert sum(p.numel() for p in build(model_type).parameters()) < 3_000_000
