"""Adapters of a running model, chosen by name for each row of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from peft import PeftConfig, PeftModel, load_peft_weights
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from swift.errors import CheckpointError, ConfigError
from swift.hub.locate import find_adapter
from swift.tune.lora import load_adapter


class Adapters:
    """The adapters that stand beside one model's weights. Rows of several run in one pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._peft: PeftModel | None = None
        self._names: dict[str, str] = {}  # and what PEFT calls them, which may hold no dots
        self._count = count()

    def load(self, name: str, path: str) -> None:
        """Read an adapter's folder.

        Raises:
            ConfigError: the name is taken, or the adapter cannot run beside others.
            CheckpointError: it is broken or belongs to another model.
        """
        if name in self._names:
            raise ConfigError(f"an adapter {name!r} is loaded already; unload it first")
        self._check(path)
        inner = f"swift_{next(self._count)}"
        self._peft = load_adapter(self._peft or self._model, path, name=inner)
        self._peft.eval()
        self._names[name] = inner

    def _check(self, path: str) -> None:
        """Refuse what does not fit before the model is touched."""
        folder = str(find_adapter(path))
        settings = PeftConfig.from_pretrained(folder)
        kind = str(getattr(settings.peft_type, "value", settings.peft_type))
        if kind != "LORA" or getattr(settings, "use_dora", False):
            kind = "DoRA" if kind == "LORA" else kind
            raise ConfigError(
                f"{path}: PEFT runs several adapters in one batch for LoRA only, this one is "
                f"{kind}; merge it: swift merge-lora --adapters {path}"
            )
        if self._peft is None and any(isinstance(m, BaseTunerLayer) for m in self._model.modules()):
            raise ConfigError(
                "adapters cannot be loaded beside one that the model was loaded with; merge that "
                "one (--merge_lora true), or load it by name as well"
            )
        for key, tensor in load_peft_weights(folder, "cpu").items():
            if why := self._misfit(key, tensor):
                raise CheckpointError(f"{path} does not fit this model: {why}")

    def _misfit(self, key: str, tensor: torch.Tensor) -> str:
        """Why a weight of an adapter has no place here; empty: it has."""
        place, found, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        if not found or end not in ("A.weight", "B.weight"):
            return ""  # PEFT itself says whether it knows it
        try:
            module: Any = self._model.get_submodule(place)
        except AttributeError:
            return f"there is no {place}"
        name, size = ("in", tensor.shape[1]) if end[0] == "A" else ("out", tensor.shape[0])
        own = getattr(module, f"{name}_features", size)
        return "" if own == size else f"{place} has {own} features {name}, the adapter {size}"

    def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            ConfigError: there is none of that name.
        """
        self.known(name)
        inner = self._names.pop(name)
        assert self._peft is not None
        if self._names:
            self._peft.delete_adapter(inner)
        else:  # the last one: the model is plain again
            self._peft.unload()
            self._peft = None

    def known(self, name: str) -> None:
        """Refuse a name that is not loaded.

        Raises:
            ConfigError: with the names that are.
        """
        if name not in self._names:
            there = ", ".join(sorted(self._names)) or "none"
            raise ConfigError(f"no adapter {name!r} is loaded (loaded: {there})")

    def call(self, names: Sequence[str | None]) -> tuple[Any, Mapping[str, Any]]:
        """What runs rows with these adapters, and the input that chooses them.

        Raises:
            ConfigError: one of them is gone.
        """
        for name in names:
            if name is not None:
                self.known(name)
        if self._peft is None:
            return self._model, {}
        inner = ["__base__" if name is None else self._names[name] for name in names]
        return self._peft, {"adapter_names": inner}
