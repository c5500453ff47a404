"""Where the parts of a model are, found by asking the model, never by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers: the list of as many modules as the configuration counts, with
    the most weights in it.

    Raises:
        ConfigError: no such list.
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not stacks:
        raise ConfigError(f"{type(model).__name__}: no stack of {count} decoder layers found")
    return max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))


def body(model: PreTrainedModel) -> nn.Module:
    """The model without its output head: tokens to hidden states."""
    found = model.base_model
    if found is model:
        raise ConfigError(f"{type(model).__name__}: the output head cannot be told from the body")
    return found


def output_head(model: PreTrainedModel) -> nn.Module:
    """Hidden states to logits."""
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{type(model).__name__}: no output head found")
    return head


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
