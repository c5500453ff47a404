"""Memory: what a run will take, what it took, and which knob saves how much.

Activations are not guessed from a formula: a small batch is run through the model and what autograd
keeps for the backward pass is counted.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from swift.models.anatomy import size

GIB = 2**30


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on its GPU, or of the host when there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes(device: torch.device) -> int:
    """Memory of the device that this process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_bytes(device)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, part by part."""

    process: int  # what the process holds already; on a CPU mostly libraries
    weights: int
    gradients: int
    optimizer: int
    activations: int  # of the largest micro-batch
    logits: int
    other_models: int  # reference, teacher, judges; a critic with all that it learns by

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.__dict__.values())

    def rows(self) -> list[tuple[str, int]]:
        """Name and bytes of every part."""
        return [(name.replace("_", " "), value) for name, value in self.__dict__.items()]


@dataclass(frozen=True)
class Probe:
    """What one position costs between forward and backward pass, counted on the model."""

    kept: float  # bytes a position
    recomputed: float  # bytes a position when activations are computed again

    def activations(self, positions: int, *, again: bool) -> int:
        """Bytes for a micro-batch of so many positions."""
        return int(positions * (self.recomputed if again else self.kept))


@dataclass(frozen=True)
class Beside:
    """Bytes of models beside the one that learns; each process holds the whole of them."""

    held: int = 0  # as long as it learns
    early: int = 0  # before the first step alone
    kept: float = 0.0  # a position: what a critic keeps for the backward pass


ALONE = Beside()


class _Counter:
    """Counts the distinct storages that autograd saves."""

    def __init__(self, ignored: Iterable[torch.Tensor]) -> None:
        self._seen = {t.untyped_storage()._cdata for t in ignored}
        self.bytes = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor


def count_saved(module: nn.Module, *inputs: Any) -> int:
    """Bytes that a forward pass keeps for its backward pass, parameters left out."""
    counter = _Counter([*module.parameters(), *module.buffers()])
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda tensor: tensor):
        out = module(*inputs)
    del out
    return counter.bytes


def parameters_estimate(parameters: Iterable[nn.Parameter], processes: int) -> dict[str, int]:
    """Bytes of weights, gradients and AdamW's two averages; ``processes`` share them (1: none)."""
    listed = list(parameters)
    learning = [p for p in listed if p.requires_grad]
    grads = sum(p.numel() * 4 for p in learning)
    return {
        "weights": size(listed) // processes,
        "gradients": grads // processes,
        "optimizer": 2 * grads // processes,
    }
