"""Where the parts of a model are, found by asking the model, never by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel

from swift.errors import ConfigError


def text_config(model: PreTrainedModel) -> PretrainedConfig:
    """The settings of the part that writes text."""
    return model.config.get_text_config(decoder=True)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers: of the outermost lists of modules in the part that writes text,
    and not in a model of its own that reads media, the one with the most weights.

    Raises:
        ConfigError: no such list.
    """
    found = list(stacks(model.get_decoder())) or list(stacks(model))
    if not found:
        raise ConfigError(f"{type(model).__name__}: no stack of decoder layers found")
    return largest(found)


def stacks(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists of modules in a module, but those in models inside that read media."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        elif not reads_media(child):
            yield from stacks(child)


def reads_media(module: nn.Module) -> bool:
    """Whether a model says of itself that it reads something else than text."""
    if not isinstance(module, PreTrainedModel):
        return False
    return module.main_input_name != "input_ids" or "text" not in module.input_modalities


def largest(found: Iterable[nn.ModuleList]) -> nn.ModuleList:
    """The list with the most weights."""
    return max(found, key=lambda stack: sum(p.numel() for p in stack.parameters()))


def body(model: PreTrainedModel) -> nn.Module:
    """The model without its output head: tokens to hidden states.

    Raises:
        ConfigError: it has no such part.
    """
    layers, head = decoder_layers(model), output_head(model)
    part: nn.Module = model.base_model
    while part is model or any(module is head for module in part.modules()):
        inner = [c for c in part.children() if any(module is layers for module in c.modules())]
        if not inner or inner[0] is layers:
            break
        part = inner[0]
    else:
        return part
    raise ConfigError(f"{type(model).__name__}: the output head cannot be told from the body")


def output_head(model: PreTrainedModel) -> nn.Module:
    """Hidden states to logits: the model's own, else that of the one inside around the layers; of a
    model that gives scores, what stands beside its body.
    """
    layers = decoder_layers(model)
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and any(m is layers for m in module.modules()):
            head = module.get_output_embeddings()
            if head is not None:
                return head
    beside = [
        child
        for child in model.children()
        if child is not model.base_model and any(True for _ in child.parameters())
    ]
    if len(beside) == 1:
        return beside[0]
    raise ConfigError(f"{type(model).__name__}: no output head found")


def scores_tokens(model: PreTrainedModel) -> bool:
    """Whether a model gives scores for every token of a text."""
    tagging: Any = AutoModelForTokenClassification._model_mapping
    kind = type(model.config)
    return kind in tagging and tagging[kind] is type(model)


def size(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes of some parameters."""
    return sum(p.numel() * p.element_size() for p in parameters)


def census(model: nn.Module) -> list[tuple[str, int, int]]:
    """Parameters by kind of module: (name with layer numbers as ``*``, all, those that learn)."""
    kinds: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        kind = re.sub(r"\.\d+\.", ".*.", name)
        kind = kind.removeprefix("base_model.model.").removesuffix(".weight")
        entry = kinds.setdefault(kind, [0, 0])
        entry[0] += parameter.numel()
        entry[1] += parameter.numel() if parameter.requires_grad else 0
    return [(kind, total, learning) for kind, (total, learning) in kinds.items()]


def vocabulary(model: PreTrainedModel) -> int:
    """Rows of the embedding table."""
    embeddings = model.get_input_embeddings()
    weight = embeddings.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def influence(
    model: PreTrainedModel, run: Callable[[], torch.Tensor], chosen: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model makes of its tokens, and on which of them some of it depends.

    Args:
        model: embeds the tokens once, with its own embeddings.
        run: its forward pass; one row, positions first.
        chosen: positions of the result.

    Returns:
        The chosen part of the result, and a derivative of it by the embeddings of all tokens, in a
        random direction: exactly zero where there is no path from token to result.
    """
    leaves: list[torch.Tensor] = []

    def cut(_: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        leaves.append(out.detach().requires_grad_())
        return leaves[-1].clone()

    hook = model.get_input_embeddings().register_forward_hook(cut)
    try:
        with torch.enable_grad():
            result = run()[chosen]
    finally:
        hook.remove()
    random = torch.Generator().manual_seed(1)
    direction = torch.randn(result.shape, generator=random).to(result)
    (slope,) = torch.autograd.grad(result, leaves[:1], direction)
    return result.detach(), slope.flatten(0, 1)
