"""Losses of texts with labels, as transformers has them. Axes: B texts, C outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from swift.losses.loss import Loss


def regression(outputs_BC: torch.Tensor, numbers_BC: torch.Tensor) -> Loss:
    """Mean squared error over the numbers of a text: sum_c (x_c - y_c)^2 / C."""
    error_BC = outputs_BC - numbers_BC
    away = error_BC.detach().abs().mean(1).sum()
    return Loss(error_BC.square().mean(1).sum(), {"mean_absolute_error": away})


def single_label(logits_BC: torch.Tensor, class_B: torch.Tensor) -> Loss:
    """Cross-entropy of softmax: -log softmax(x)_y. Classes are int64."""
    right = (logits_BC.detach().argmax(1) == class_B).float().sum()
    return Loss(F.cross_entropy(logits_BC, class_B, reduction="sum"), {"accuracy": right})


def multi_label(logits_BC: torch.Tensor, true_BC: torch.Tensor) -> Loss:
    """Mean over the classes of a text of the binary cross-entropy, log(1 + e^x) - x y.

    ``accuracy`` is the share of texts all of whose classes are right.
    """
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, true_BC, reduction="none")
    right_B = ((logits_BC.detach() > 0) == (true_BC > 0.5)).all(1)
    return Loss(loss_BC.mean(1).sum(), {"accuracy": right_B.float().sum()})
