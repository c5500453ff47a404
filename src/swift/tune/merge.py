"""Adapter and base as one model, with a proof that nothing was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from swift.errors import CheckpointError
from swift.models.anatomy import vocabulary

_LOGITS = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""How far logits of a deep model may move, relative to the largest, when each weight is rounded."""


@dataclass(frozen=True)
class Merged:
    """A merged model and how far it is from model and adapter side by side."""

    model: PreTrainedModel
    weights: int  # merged ones
    rounding: float  # worst difference of a weight, in units of its rounding
    logits: float  # worst difference of a logit, relative to the largest


@torch.no_grad()
def merge(peft: PeftModel) -> Merged:
    """Add an adapter's update to the weights, and prove it.

    Every merged weight must equal the sum computed in float32 within the rounding of its format,
    and the logits of the merged model those of model and adapter within what such rounding does to
    a deep model.

    Raises:
        CheckpointError: something other than rounding differs.
    """
    peft.eval()
    base = peft.get_base_model()
    assert isinstance(base, PreTrainedModel)
    dtype = base.dtype
    before = _logits(base)
    worst, count = 0.0, 0
    for name, layer in base.named_modules():
        if isinstance(layer, LoraLayer):
            error = _merge_layer(layer)
            worst, count = max(worst, error), count + 1
            if not error <= 1.0:
                raise CheckpointError(
                    f"{name}: merging changed weights beyond rounding ({error:.1f})"
                )
    merged = peft.merge_and_unload()
    difference = float((_logits(merged) - before).abs().max() / before.abs().max())
    if not difference <= _LOGITS[dtype]:
        raise CheckpointError(
            f"the merged model's logits differ from the adapter's by {difference:.1e} of the "
            f"largest one; rounding to {dtype} explains at most {_LOGITS[dtype]:.0e}"
        )
    return Merged(merged, count, worst, difference)


def _merge_layer(layer: Any) -> float:
    """Merge one layer; the worst error of a weight in units of rounding.

    Kinds of layers whose update is more than scale * B A are judged by the logits alone.
    """
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    if type(base) is not torch.nn.Linear or name in layer.lora_variant:
        layer.merge(safe_merge=True)
        return 0.0
    before = base.weight.float().clone()
    a, b = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
    update = layer.scaling[name] * (b @ a)
    layer.merge(safe_merge=True)
    exact = before + update
    info = torch.finfo(base.weight.dtype)
    unit = info.eps * (exact.abs() + update.abs()) + info.tiny
    return float(((base.weight.float() - exact).abs() / unit).max())


def _logits(model: PreTrainedModel) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, min(vocabulary(model), 1000), (1, 32), generator=random)
    return model(input_ids=tokens.to(model.device), use_cache=False).logits.float()
