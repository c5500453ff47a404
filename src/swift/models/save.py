"""A model -> a folder that plain transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

_BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "*.model", "*.jinja", "chat_template.json", "generation_config.json",
    "*processor_config.json", "*.tiktoken", "*.py", "serving.json",
)  # fmt: skip


def save_model(
    model: PreTrainedModel,
    folder: Path,
    *,
    dtype: torch.dtype,
    weights: Mapping[str, torch.Tensor] | None = None,
    shard_size: str = "5GB",
) -> None:
    """Write weights and configuration.

    Args:
        model: gives names and configuration.
        folder: is made.
        dtype: the format that the configuration names for whoever loads it.
        weights: the weights, when not those of ``model`` (sharded ones gathered, say); a tied one
            may be there under each of its names.
        shard_size: largest file of weights.
    """
    if weights is not None:
        weights = {name: w for name, w in weights.items() if name not in _second_names(model)}
    model.save_pretrained(folder, state_dict=weights, max_shard_size=shard_size)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _second_names(model: PreTrainedModel) -> set[str]:
    """Names under which a tied weight stands once more."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied = model.all_tied_weights_keys.items()
    return {name for name, source in tied if parameters.get(name) is parameters.get(source)}


def copy_beside(base: Path, folder: Path) -> None:
    """Copy what belongs to a checkpoint beside its weights: tokenizer, template, settings."""
    for pattern in _BESIDE:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def saved_keys(folder: Path) -> set[str]:
    """The names of the weights in a checkpoint folder."""
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            names |= set(weights.keys())
    return names
