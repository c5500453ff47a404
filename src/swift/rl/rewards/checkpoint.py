"""Checkpoints that give scores, with the adapter of one merged into its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from swift.hub.locate import locate_model
from swift.models.load import load_model
from swift.tune.lora import load_adapter, scores_in


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter alone."""
    return (path / "adapter_config.json").is_file()


def load_scoring(path: Path) -> PreTrainedModel:
    """A model that gives scores, in float32.

    Raises:
        ConfigError, CheckpointError: the folder holds none.
    """
    if is_adapter(path):
        settings = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        base, found = locate_model(settings["base_model_name_or_path"]), scores_in(path)
        model = load_model(base, torch.float32, scores=found.count, each_token=found.each_token)
        merged: PreTrainedModel = load_adapter(model, str(path)).merge_and_unload()
        return merged
    names = AutoConfig.from_pretrained(path).architectures or []
    tagging = any(name.endswith("ForTokenClassification") for name in names)
    auto: Any = AutoModelForTokenClassification if tagging else AutoModelForSequenceClassification
    made: PreTrainedModel = auto.from_pretrained(path, dtype=torch.float32)
    return made


def on(model: PreTrainedModel, device: torch.device) -> Any:
    """A model on a device, as it judges: without dropout."""
    moved: Any = model
    return moved.to(device).eval()
