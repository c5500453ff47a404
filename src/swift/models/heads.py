"""From hidden states to logits, exactly as the model itself does it, for any rows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError
from swift.models.anatomy import body, output_head, text_config, vocabulary

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Head:
    """The output head with what the architecture does around it (a scale, a soft cap)."""

    module: nn.Module
    before: Change
    behind: Change

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V)."""
        return self.behind(self.module(self.before(hidden_ND)))

    def learning(self) -> list[nn.Parameter]:
        """Its parameters that learn. Asked anew at every step: sharding exchanges them."""
        return [p for p in self.module.parameters() if p.requires_grad]


def _scales(model: PreTrainedModel) -> Iterator[Change]:
    """How architectures scale what goes into their head or comes out of it, by the settings in
    which they say so.
    """
    config = text_config(model)
    yield lambda x: x
    for name in ("logit_scale", "lm_head_multiplier"):
        if isinstance(factor := getattr(config, name, None), int | float):
            yield lambda x, factor=factor: x * factor  # type: ignore[misc]
    for name in ("logits_scaling", "logits_scale", "logits_mup_width_multiplier"):
        if isinstance(factor := getattr(config, name, None), int | float) and factor:
            yield lambda x, factor=factor: x / factor  # type: ignore[misc]


def _caps(model: PreTrainedModel) -> Iterator[Change]:
    """How they bound their logits."""
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if isinstance(cap := getattr(text_config(model), name, None), int | float) and cap:
            yield lambda x, cap=cap: torch.tanh(x / cap) * cap  # type: ignore[misc]


@torch.no_grad()
def find_head(model: PreTrainedModel) -> Head:
    """The head of a model, proven on the model itself.

    While it runs, a hook sees what the head reads, and puts large numbers in place of its logits:
    what comes out of the model is what the architecture does behind its head, also where the own
    logits of a fresh model are too small to reach its soft cap.

    Raises:
        ConfigError: its weights give no numbers, or it does something around its head that is not
            known here.
    """
    module, training = output_head(model), model.training
    read: list[torch.Tensor] = []
    written: list[torch.Tensor] = []

    def exchange(_: nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        read.append(args[0])
        written.append(torch.linspace(-90, 90, out.numel(), device=out.device).view_as(out).to(out))
        return written[-1]

    model.eval()
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, min(vocabulary(model), 1000), (1, 8), generator=random).to(device)
    hook = module.register_forward_hook(exchange)
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
        hook.remove()
        hidden = body(model)(input_ids=tokens, use_cache=False).last_hidden_state
    finally:
        hook.remove()
        model.train(training)
    if not hidden.isfinite().all():
        raise ConfigError(
            f"--model: the hidden states of {type(model).__name__} are not finite numbers: its "
            f"weights hold some that are none, or are too large for {hidden.dtype}; check the "
            "files, or try --torch_dtype float32"
        )
    if len(read) == 1:
        before = _best(_scales(model), hidden, read[0])
        behind = _best([*_scales(model), *_caps(model)], written[0], logits)
        if before and behind:
            return Head(module, before, behind)
    raise ConfigError(
        f"{type(model).__name__} changes its logits in a way that is not known here; "
        "please report the architecture"
    )


def _best(changes: Iterable[Change], given: torch.Tensor, expected: torch.Tensor) -> Change | None:
    """The change that makes of ``given`` what is expected; None: none does, within rounding."""
    if given.shape != expected.shape:
        return None

    def error(change: Change) -> float:
        difference = change(given).float() - expected.float()
        return float(difference.norm() / expected.float().norm())

    found = min(changes, key=error)
    return found if error(found) <= (1e-5 if given.dtype == torch.float32 else 2e-2) else None
