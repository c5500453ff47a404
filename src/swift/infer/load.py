"""A model section -> something that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from swift.chat.load import load_tokenizer, renderer_for
from swift.chat.render import Renderer
from swift.config.engine import Servers
from swift.config.infer import EngineSection, InferSection
from swift.config.model import ModelSection, UsedModelSection
from swift.config.task import ClassSection, Problem
from swift.errors import ConfigError
from swift.hub.locate import find_adapter, locate_model
from swift.infer.backends.transformers import TransformersEngine
from swift.infer.engine import ServingEngine
from swift.infer.remote import remote_talker
from swift.infer.start import ADAPTER, serve
from swift.infer.talk import Answers, Talker, sampling_of
from swift.models.load import dtype_name, load_model, resolve_dtype
from swift.models.memory import free_bytes
from swift.models.prepacked import prepack
from swift.observe.log import Log
from swift.tune.lora import load_adapter

MEDIA = ("max_pixels", "min_pixels", "fps", "max_frames", "min_frames", "sampling_rate")
"""Settings that decide what a model gets of media."""

_KEPT = 0.1  # of the cache, for prompts that others begin like


@dataclass(frozen=True)
class Trained:
    """What is known of how a checkpoint or an adapter was trained; empty when nothing is."""

    config: dict[str, Any]  # its config.yaml
    named: str | None = None  # the base model that an adapter of others names

    def get(self, section: str, name: str) -> Any:
        """One setting of the run, or None."""
        return (self.config.get(section) or {}).get(name)

    @property
    def problem(self) -> Problem | None:
        """What a label is to a model of classes; None: it is none, or nobody knows."""
        task = self.config.get("task") or {}
        is_class = task.get("kind") == "seq_cls"
        return ClassSection.model_validate(task).problem if is_class else None


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


class Answering(Servers, Protocol):
    """A configuration of what answers."""

    @property
    def model(self) -> UsedModelSection:
        """Which model."""

    @property
    def infer(self) -> InferSection:
        """How it answers."""


def settled(config: Answering) -> tuple[UsedModelSection, Trained]:
    """The model of a configuration; a server's own is what it is called there.

    Raises:
        ConfigError: as :func:`settle`.
    """
    if config.infer.backend == "http":
        return config.model, Trained({})
    return settle(config.model)


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


def fetch(section: ModelSection | UsedModelSection, dtype: torch.dtype, log: Log) -> Path:
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


def answers_of(
    config: Answering, section: UsedModelSection, device: torch.device, log: Log
) -> Answers:
    """What answers messages by a configuration, with its model settled.

    Raises:
        ConfigError: the model, its adapter or the server cannot be used.
    """
    if config.infer.backend == "http":
        return remote_talker(config.infer, section.path or "")
    return load_talker(section, config.infer, device, log, config)


def load_talker(
    section: UsedModelSection,
    settings: EngineSection,
    device: torch.device,
    log: Log,
    servers: Servers,
    narrow: Callable[[Renderer], Renderer] = lambda renderer: renderer,
) -> Talker:
    """Load a settled model with its adapter, renderer and engine.

    Args:
        section: of the model.
        settings: of the answers.
        device: of the embedded engine.
        log: told what happens.
        servers: settings of servers that are started.
        narrow: the limits in which media are read, by what answers and by its engine alike.

    Raises:
        ConfigError: the model or the adapter cannot be used.
    """
    dtype = resolve_dtype(section.dtype, device)
    base = fetch(section, dtype, log)
    words = base  # where tokenizer and template are: an adapter brings those that it learned with
    if section.adapters and (Path(section.adapters[0]) / "tokenizer.json").is_file():
        words = Path(section.adapters[0])
    renderer = narrow(renderer_for(words, section))
    adapter = None
    if settings.backend == "transformers":
        engine: ServingEngine = _embed(base, words, section, settings, dtype, device, renderer)
    else:
        engine = serve(base, section, settings, servers, dtype, log, lambda: renderer.marks)
        adapter = ADAPTER if section.adapters else None
    return Talker(renderer, engine, sampling_of(settings), adapter)


def _embed(
    base: Path,
    words: Path,
    section: UsedModelSection,
    settings: EngineSection,
    dtype: torch.dtype,
    device: torch.device,
    renderer: Renderer,
) -> TransformersEngine:
    """The engine in this process."""
    model: Any = load_model(base, dtype, device=device, trust_remote_code=section.trust_remote_code)
    for adapter in section.adapters:
        peft = load_adapter(model, adapter)
        model = peft.merge_and_unload() if section.merge else peft.get_base_model()
    model.config.use_cache = True
    prepack(model, free_bytes(device) // 2)
    tokenizer = load_tokenizer(words, trust_remote_code=section.trust_remote_code)
    engine = TransformersEngine(
        model, tokenizer, section.attention, lambda: renderer.marks, kept=_KEPT
    )
    if settings.max_model_len is not None:
        engine.context = min(settings.max_model_len, engine.context or settings.max_model_len)
    return engine
