"""What is saved is what plain transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tiny
from swift.models.load import load_model
from swift.models.save import copy_beside, save_model, saved_keys

TOKENS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_transformers_loads_the_same_model(
    tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = tiny.make_config(tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    save_model(model, tmp_path, dtype=dtype)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert plain.dtype == dtype
    assert torch.equal(logits(plain), logits(model))
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied


def test_large_models_come_in_shards(tmp_path: Path) -> None:
    model = tiny.make_model()
    save_model(model, tmp_path, dtype=torch.float32, shard_size="100KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    held = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            held |= dict.fromkeys(weights.keys(), file.name)
    assert held == index["weight_map"]
    assert saved_keys(tmp_path) == held.keys()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(plain), logits(model))


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = tiny.make_model()
    save_model(model, tmp_path, dtype=torch.float32)
    names = {name for name, _ in model.named_parameters()}
    assert saved_keys(tmp_path) == names
    assert "lm_head.weight" not in names


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_weights_gathered_elsewhere_are_written(tied: bool, shared: bool, tmp_path: Path) -> None:
    """Sharded training gathers them by name: the tied one twice, as one tensor or as two."""
    model, other = (tiny.make_model(seed, tie_word_embeddings=tied) for seed in (0, 1))
    weights = {n: w if shared else w.clone() for n, w in other.state_dict().items()}
    assert "lm_head.weight" in weights
    save_model(model, tmp_path, dtype=torch.float32, weights=weights)
    assert saved_keys(tmp_path) == {name for name, _ in other.named_parameters()}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(plain), logits(other))


@pytest.mark.parametrize("named", [torch.float32, torch.bfloat16])
def test_the_settings_name_the_format_for_whoever_loads_it(
    named: torch.dtype, tmp_path: Path
) -> None:
    """Training keeps float32 weights of a model that is used in bfloat16."""
    save_model(tiny.make_model(), tmp_path, dtype=named)
    assert AutoConfig.from_pretrained(tmp_path).dtype == named
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == named
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.norm.weight").dtype == torch.float32


def test_the_settings_are_otherwise_those_of_the_checkpoint(tmp_path: Path) -> None:
    tiny.make_model().save_pretrained(tmp_path / "first")
    save_model(
        load_model(tmp_path / "first", torch.float32), tmp_path / "second", dtype=torch.float32
    )
    first, second = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second")
    )
    assert second == first


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = load_model(_saved(tmp_path), torch.float32)
    before, settings = logits(model), model.config.to_dict()
    save_model(model, tmp_path / "again", dtype=torch.bfloat16)
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == settings


def _saved(folder: Path) -> Path:
    tiny.make_model().save_pretrained(folder)
    return folder


def test_what_belongs_beside_the_weights_is_copied(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "notes.txt").write_text("stays")
    copy_beside(checkpoint, tmp_path)
    copied = {file.name for file in tmp_path.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= copied
    assert not copied & {"model.safetensors", "config.json", "notes.txt"}
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words.chat_template == tiny.CHATML
