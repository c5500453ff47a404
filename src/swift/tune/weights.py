"""What an engine gets of a model that learns: names and tensors of the plain model, adapters
merged, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from swift.tune.tuned import Tuned


@torch.no_grad()
def current_weights(tuned: Tuned, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights as they are now, called as in the checkpoint that the model was loaded from.

    The model itself is left alone: each adapted layer is copied, merged and forgotten, so that no
    rounding of merging and its undoing gathers in weights that are frozen. Weights that are one
    (tied embeddings) come once.

    Args:
        tuned: the model, perhaps with an adapter.
        dtype: number format of what is not whole numbers.
    """
    for name, tensor in _walk(tuned.model, "", set()):
        found = tensor.detach()
        yield name, found.to(dtype) if found.is_floating_point() else found


def _walk(
    module: nn.Module, prefix: str, seen: set[int] | None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters by name; ``seen`` holds those that came already, None within a copy."""
    if isinstance(module, BaseTunerLayer):
        merged = deepcopy(module)
        merged.merge()
        yield from _walk(merged.get_base_layer(), prefix, None)
        return
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[module.active_adapters[0]]
    for name, parameter in module.named_parameters(recurse=False):
        if seen is None or id(parameter) not in seen:
            yield prefix + name, parameter
        if seen is not None:
            seen.add(id(parameter))
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}{name}.", seen)
