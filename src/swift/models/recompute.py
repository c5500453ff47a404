"""Gradient checkpointing by part: activations computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError
from swift.models.parts import parts


def recompute(
    model: PreTrainedModel, *, language: bool, towers: bool, settings: dict[str, Any]
) -> None:
    """Say which layers compute their activations again, where the architecture lets them.

    Args:
        model: is changed.
        language: the language model's layers.
        towers: those of its vision and audio towers, and of what connects them.
        settings: as ``torch.utils.checkpoint.checkpoint`` takes them.

    Raises:
        ConfigError: none can.
    """
    if not (language or towers):
        if model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
        return
    able = list(_able(model))
    if not able:
        raise ConfigError(
            f"--gradient_checkpointing true: {type(model).__name__} cannot compute its activations "
            "again; use false"
        )
    for inner in able:
        inner.gradient_checkpointing_enable(settings)
    found = parts(model)
    for name, module in model.named_modules():
        if hasattr(module, "gradient_checkpointing"):
            chosen = language if found.of(name) == "language" else towers
            module.gradient_checkpointing = chosen  # type: ignore[assignment]


def _able(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The outermost models, the module itself or some inside, of which transformers can compute
    activations again.
    """
    if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
        yield module
        return
    for child in module.children():
        yield from _able(child)
