"""A LoRA layer whose update costs two thin products and no pass over the layer's output.

PEFT's own computes ``base(x) + B(A(x)) * scale`` in separate steps: the update is written, scaled
and added, each a pass over the largest tensors of a transformer. Here it is added in place, forward
and backward. Registered with PEFT as the layer for ``torch.nn.Linear``; names, files and merging
are PEFT's.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer

from swift.models.kernels import product


class _Update(torch.autograd.Function):
    """``x W^T + b + scale * (x A^T) B^T`` with W and b frozen.

    Axes: T rows, K inputs, N outputs, R rank.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TK: torch.Tensor,
        weight_NK: torch.Tensor,
        bias_N: torch.Tensor | None,
        a_RK: torch.Tensor,
        b_NR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        a, b = a_RK.to(weight_NK.dtype), b_NR.to(weight_NK.dtype)
        out_TN = product(x_TK, weight_NK, bias_N)
        low_TR = x_TK @ a.t()
        out_TN.addmm_(low_TR, b.t(), alpha=scale)
        ctx.save_for_backward(x_TK, weight_NK, a_RK, b_NR, low_TR)
        ctx.scale = scale
        return out_TN

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TK, weight_NK, a_RK, b_NR, low_TR = ctx.saved_tensors
        slope_TN = slopes[0]
        dtype = weight_NK.dtype
        low_slope_TR = (slope_TN @ b_NR.to(dtype)).mul_(ctx.scale)
        by_x = by_a = by_b = None
        if ctx.needs_input_grad[0]:
            by_x = product(slope_TN, weight_NK.t())
            by_x.addmm_(low_slope_TR, a_RK.to(dtype))
        if ctx.needs_input_grad[3]:
            by_a = (low_slope_TR.t() @ x_TK).to(a_RK.dtype)
        if ctx.needs_input_grad[4]:
            by_b = (slope_TN.t() @ low_TR).mul_(ctx.scale).to(b_NR.dtype)
        return by_x, None, None, by_a, by_b, None


class LoraLinear(peft_layer.Linear):  # type: ignore[misc]
    """PEFT's LoRA layer, with the plain case of training done in one function."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As ``peft.tuners.lora.Linear.forward``."""
        name, base = self._only_adapter(), self.get_base_layer()
        weight = base.weight
        assert isinstance(weight, torch.Tensor)
        if name is None or args or kwargs or _recast(weight):
            result: torch.Tensor = super().forward(x, *args, **kwargs)
            return result
        out = _Update.apply(
            x.reshape(-1, x.shape[-1]).to(weight.dtype),
            weight,
            base.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
        )
        assert isinstance(out, torch.Tensor)
        return out.view(*x.shape[:-1], weight.shape[0])

    def _only_adapter(self) -> str | None:
        """The adapter when it is a single plain one without dropout beside frozen weights."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        base = self.get_base_layer()
        plain = (
            name in self.lora_A
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], torch.nn.Identity)
            and self.lora_B[name].bias is None
            and type(base) is torch.nn.Linear
            and not base.weight.requires_grad
        )
        return name if plain else None


def _recast(weight: torch.Tensor) -> bool:
    """Whether autocast computes in another number format than that of the weight."""
    kind = weight.device.type
    if not torch.amp.is_autocast_available(kind):
        return False
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != weight.dtype
