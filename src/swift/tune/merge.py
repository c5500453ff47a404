"""Adapter and base as one model, with a proof that nothing was lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from swift.errors import CheckpointError
from swift.models.anatomy import vocabulary


@dataclass(frozen=True)
class Merged:
    """A merged model and how far its logits are from the adapter's."""

    model: PreTrainedModel
    difference: float  # largest difference of a logit, relative to the largest logit
    bound: float


@torch.no_grad()
def merge(peft: PeftModel) -> Merged:
    """Add the adapter's update to the weights and compare the logits before and after.

    The sums are made in the weights' own format, so they may differ by its rounding: the bound is
    32 units in the last place of that format, relative to the largest logit.

    Raises:
        CheckpointError: the logits differ by more, so something else was lost.
    """
    peft.eval()
    dtype = next(peft.parameters()).dtype
    base = peft.get_base_model()
    assert isinstance(base, PreTrainedModel)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, min(vocabulary(base), 1000), (1, 32), generator=random)
    tokens = tokens.to(base.device)
    before = base(input_ids=tokens, use_cache=False).logits.float()
    merged = peft.merge_and_unload(safe_merge=True)
    after = merged(input_ids=tokens, use_cache=False).logits.float()
    difference = float((after - before).abs().max() / before.abs().max())
    bound = 32 * torch.finfo(dtype).eps
    if not difference <= bound:
        raise CheckpointError(
            f"the merged model's logits differ by {difference:.2e} of the largest one from the "
            f"adapter's; rounding of {dtype} explains at most {bound:.2e}"
        )
    return Merged(merged, difference, bound)
