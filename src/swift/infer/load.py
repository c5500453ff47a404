"""A model section -> something that answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from swift.chat.load import load_tokenizer, renderer_for
from swift.config.infer import InferSection
from swift.config.model import UsedModelSection
from swift.errors import ConfigError
from swift.hub.locate import find_adapter, locate_model
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import Sampling
from swift.infer.talk import Talker
from swift.models.load import dtype_name, load_model, resolve_dtype
from swift.observe.log import Log
from swift.tune.lora import load_adapter

MEDIA = ("max_pixels", "min_pixels", "fps", "max_frames", "min_frames", "sampling_rate")
"""Settings that decide what a model gets of media."""


@dataclass(frozen=True)
class Trained:
    """What is known of how a checkpoint or an adapter was trained; empty when nothing is."""

    config: dict[str, Any]  # its config.yaml
    named: str | None = None  # the base model that an adapter of others names

    def get(self, section: str, name: str) -> Any:
        """One setting of the run, or None."""
        return (self.config.get(section) or {}).get(name)


def trained(folder: str | None) -> Trained:
    """Read what lies beside weights: ``config.yaml``, ``adapter_config.json``."""
    path = Path(folder or ".")
    config: Any = {}
    named = None
    if folder and (path / "config.yaml").is_file():
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}
    if folder and (path / "adapter_config.json").is_file():
        named = json.loads((path / "adapter_config.json").read_text(encoding="utf-8")).get(
            "base_model_name_or_path"
        )
    return Trained(config if isinstance(config, dict) else {}, named)


def settle(section: UsedModelSection) -> tuple[UsedModelSection, Trained]:
    """Fill in what an adapter knows of its base model, and how media were read in training.

    Raises:
        ConfigError: neither the command nor the adapter says which model it is.
    """
    if len(section.adapters) > 1:
        raise ConfigError("--adapters: one adapter at a time so far")
    if section.path is None:
        find_adapter(section.adapters[0])
    before = trained(section.adapters[0] if section.adapters else section.path)
    known = before.config.get("model") or {}
    asked = section.model_fields_set
    seen = {name: known[name] for name in MEDIA if name in known and name not in asked}
    section = section.model_copy(update=seen)  # media as they were learned from
    if section.path is not None:
        return section, before
    path = known.get("path") or before.named
    if not path:
        raise ConfigError(
            f"--model is needed: {section.adapters[0]} does not say what it belongs to"
        )
    found = {"path": path, "revision": known.get("revision"), "hub": known.get("hub", "auto")}
    if section.thinking is None and not section.template_kwargs:
        found["thinking"] = known.get("thinking")
        found["template_kwargs"] = known.get("template_kwargs") or {}
    if section.response_prefix is None:
        found["response_prefix"] = known.get("response_prefix")
    if section.dtype == "auto":
        found["dtype"] = known.get("dtype", "auto")
    return section.model_copy(update=found), before


def fetch(section: UsedModelSection, dtype: torch.dtype, log: Log) -> Path:
    """The local folder of the (settled) model."""
    assert section.path is not None
    return locate_model(
        section.path,
        revision=section.revision,
        hub=section.hub,
        dtype=dtype_name(dtype),
        code=section.trust_remote_code,
        say=log,
    )


def load_talker(
    section: UsedModelSection, settings: InferSection, device: torch.device, log: Log
) -> Talker:
    """Load a settled model with its adapter, renderer and engine.

    Raises:
        ConfigError: the model or the adapter cannot be used.
    """
    dtype = resolve_dtype(section.dtype, device)
    base = fetch(section, dtype, log)
    words = base  # where tokenizer and template are: an adapter brings those that it learned with
    if section.adapters and (Path(section.adapters[0]) / "tokenizer.json").is_file():
        words = Path(section.adapters[0])
    renderer = renderer_for(words, section)
    model: Any = load_model(base, dtype, device=device, trust_remote_code=section.trust_remote_code)
    for adapter in section.adapters:
        peft = load_adapter(model, adapter)
        model = peft.merge_and_unload() if section.merge else peft.get_base_model()
    model.config.use_cache = True
    tokenizer = load_tokenizer(words, trust_remote_code=section.trust_remote_code)
    return Talker(
        renderer,
        TransformersEngine(model, tokenizer, section.attention, lambda: renderer.marks),
        Sampling(
            max_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            stop=tuple(settings.stop),
            seed=settings.seed,
        ),
    )
