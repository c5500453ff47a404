"""What the defaults of CPUs leave on the table: matrix products and freed memory.

PyTorch computes float32 products with MKL, which keeps its AVX-512 kernels for Intel's processors;
on AMD's it runs at half of what oneDNN, also inside PyTorch, reaches (measure: bench/linear.py).
:func:`fast_linear` sends linear layers there, forward and backward, through PyTorch's own hook for
such choices (``TorchFunctionMode``). Results stay float32 and repeatable; where nothing is gained
the context does nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


@cache
def onednn_wins() -> bool:
    """Whether this machine is one where oneDNN's float32 products are the faster ones.

    Decided by the kind of processor, not by timing, so that a run that goes on computes the same
    bits as the one that was broken off.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


ROWS = 64
"""oneDNN compiles a kernel for every shape it meets, so it is given multiples of this many rows."""

_WORTHWHILE = 1 << 16  # elements of a weight below which nothing is gained


def row_multiple(device: torch.device) -> int:
    """What the positions of a batch should be a multiple of, for the fast kernels to take it."""
    return ROWS if device.type == "cpu" and onednn_wins() else 1


def product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``x @ weight.T + bias`` without gradient, by the faster library; any strides.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,) or None.
    """
    if onednn_wins() and x.dtype == torch.float32 and x.device.type == "cpu":
        rows = x.numel() // x.shape[-1]
        if rows and rows % ROWS == 0 and weight.numel() >= _WORTHWHILE:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
            return out
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """``F.linear`` with :func:`product` in both directions."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        slope = slopes[0]
        by_x = product(slope, weight.t()) if ctx.needs_input_grad[0] else None
        flat = slope.reshape(-1, slope.shape[-1])
        by_weight = by_bias = None
        if ctx.needs_input_grad[1]:
            by_weight = product(flat.t(), x.reshape(-1, x.shape[-1]).t())
        if ctx.needs_input_grad[2]:
            by_bias = flat.sum(0)
        return by_x, by_weight, by_bias


class _Fast(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and not kwargs and _plain(args):
            x, weight, *rest = args
            return _Linear.apply(x, weight, rest[0] if rest else None)
        return func(*args, **(kwargs or {}))


def _plain(args: tuple[Any, ...]) -> bool:
    """Ordinary float32 tensors on the CPU, not subclasses, and no autocast to another format."""
    return (
        all(type(a) in (torch.Tensor, torch.nn.Parameter) for a in args[:2])
        and all(a.dtype == torch.float32 and a.device.type == "cpu" for a in args[:2])
        and args[0].numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def fast_linear(model: torch.nn.Module | None = None) -> contextlib.AbstractContextManager[Any]:
    """Within it, float32 linear layers on the CPU use the faster library.

    Args:
        model: what runs; where all its weights are so small that nothing is gained, PyTorch is left
            alone. None: that is not known.
    """
    small = model is not None and all(p.numel() < _WORTHWHILE for p in model.parameters())
    return _Fast() if onednn_wins() and not small else contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next allocation instead of giving it back.

    A training step on a CPU makes the same large tensors again and again; by default each goes back
    to the system and is faulted in anew, page by page. Elsewhere than on glibc this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
