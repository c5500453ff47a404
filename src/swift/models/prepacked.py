"""Weights of linear layers in the order in which oneDNN reads them: answers on a CPU come about
twice as fast (measure: bench/linear.py).

PyTorch lays a weight out anew for every product, which costs as much as the product where there are
few rows; one token of an answer is one row. A :class:`Prepacked` layer keeps its weight in both
orders: as it was, for everybody who looks at it, and as it is read.
"""

from __future__ import annotations

import torch
from torch import nn

_DTYPES = (torch.bfloat16, torch.float32)
_WORTHWHILE = 1 << 16  # elements of a weight below which nothing is gained
_ROWS = 8  # for which the order is chosen; it is as good for others


class Prepacked(nn.Linear):
    """A linear layer that is faster without gradients; with them it is what it was.

    A weight that was changed in place, by an optimizer or new weights, is laid out once more.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Take the place of a layer, whose parameters it shares.

        Raises:
            RuntimeError: this processor has no such products in this precision.
        """
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)
        self._kind = layer.weight.dtype
        self._lay_out()

    def _lay_out(self) -> None:
        weight = self.weight.detach()
        self._changes, self._of = self.weight._version, weight.data_ptr()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias``; axes (..., in) and (..., out)."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or not x.dtype == weight.dtype == self._kind
            or not x.device.type == weight.device.type == "cpu"
            or not x.numel()
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        if weight._version != self._changes or weight.data_ptr() != self._of:
            self._lay_out()
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return found


def prepack(model: nn.Module, most_bytes: int) -> bool:
    """Replace the plain linear layers of a model on a CPU by faster ones.

    Args:
        model: answers, and is not trained.
        most_bytes: that the second order of the weights may take.

    Returns:
        Whether it was done: not on other devices, in precisions that the processor has no products
        for, or where it would take too much.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _gains(child)
    ]
    size = sum(child.weight.nbytes for _, _, child in found)
    if not found or size > most_bytes or not _can():
        return False
    made: dict[nn.Linear, Prepacked] = {}
    try:
        for _, _, child in found:
            made[child] = made.get(child) or Prepacked(child)
    except RuntimeError:  # this processor lacks what the precision needs
        return False
    for parent, name, child in found:
        setattr(parent, name, made[child])
    return True


def _gains(layer: nn.Linear) -> bool:
    weight = layer.weight
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.numel() >= _WORTHWHILE
        and not any(hooks)
    )


def _can() -> bool:
    known = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in known
    )
