"""Gradient checkpointing by part: activations computed again in the backward pass, not kept."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

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
    """
    if not (language or towers):
        if model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()
        return
    model.gradient_checkpointing_enable(settings)
    found = parts(model)
    for name, module in model.named_modules():
        if hasattr(module, "gradient_checkpointing"):
            chosen = language if found.of(name) == "language" else towers
            module.gradient_checkpointing = chosen  # type: ignore[assignment]
