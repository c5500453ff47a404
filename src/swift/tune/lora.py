"""Low-rank adapters, made and kept by PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel

from swift.config.tuner import LoraSection
from swift.errors import CheckpointError, ConfigError
from swift.tune.layer import LoraLinear
from swift.tune.tuned import Tuned


def attach(
    section: LoraSection, model: PreTrainedModel, adapters: Sequence[str], base: str
) -> Tuned:
    """Put an adapter beside frozen weights: a new one that changes nothing yet, or one to go on
    with.

    Args:
        section: its settings; of no effect on an adapter that exists.
        model: the base model.
        adapters: at most one folder of an adapter.
        base: how the adapter names its base model.

    Raises:
        ConfigError: the targets are not in the model, or there are several adapters.
    """
    if len(adapters) > 1:
        raise ConfigError("--adapters: one adapter is trained at a time; merge the others first")
    peft = load_adapter(model, adapters[0], trainable=True) if adapters else _new(section, model)
    for settings in peft.peft_config.values():
        settings.base_model_name_or_path = base
    return Tuned(model, peft)


def _new(section: LoraSection, model: PreTrainedModel) -> PeftModel:
    targets: Any = section.targets_regex or section.targets
    if targets == ["all-linear"]:
        targets = "all-linear"
    settings = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
        lora_dropout=section.dropout,
        target_modules=targets,
        modules_to_save=section.save_modules or None,
        use_rslora=section.rslora,
        use_dora=section.dora,
        task_type="CAUSAL_LM",
    )
    _use_our_layer(settings, model)
    try:
        peft = get_peft_model(model, settings)
    except ValueError as error:
        ends = {
            name.rpartition(".")[2] for name, m in model.named_modules() if hasattr(m, "weight")
        }
        raise ConfigError(
            f"--target_modules: {error}; this model has {', '.join(sorted(ends))}"
        ) from None
    assert isinstance(peft, PeftModel)
    return peft


def _use_our_layer(settings: Any, model: PreTrainedModel) -> None:
    """Plain linear layers get :class:`LoraLinear`; quantized ones keep PEFT's own."""
    if getattr(model, "quantization_method", None) is None:
        settings._register_custom_module({torch.nn.Linear: LoraLinear})


def load_adapter(model: PreTrainedModel, folder: str, *, trainable: bool = False) -> PeftModel:
    """Put the adapter of a folder onto its base model.

    Raises:
        ConfigError: the folder holds no adapter.
        CheckpointError: the adapter is broken or belongs to another model.
    """
    path = Path(folder)
    if not (path / "adapter_config.json").is_file():
        inside = sorted(path.glob("**/adapter_config.json")) if path.is_dir() else []
        hint = f"; did you mean {inside[-1].parent}?" if inside else ""
        raise ConfigError(f"--adapters: {folder} holds no adapter_config.json{hint}")
    try:
        settings = PeftConfig.from_pretrained(folder)
        _use_our_layer(settings, model)
        return PeftModel.from_pretrained(model, folder, is_trainable=trainable, config=settings)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"--adapters: {folder} does not fit this model: {first}") from None
