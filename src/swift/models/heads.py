"""From hidden states to logits, exactly as the model itself does it, for any rows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError
from swift.models.anatomy import body, output_head, vocabulary

Finish = Callable[[torch.Tensor], torch.Tensor]


class Head:
    """The output head with what the architecture does to its result (a scale, a soft cap)."""

    def __init__(self, module: nn.Module, finish: Finish) -> None:
        self.module = module
        self.finish = finish

    def __call__(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Logits (N, V)."""
        logits: torch.Tensor = self.finish(self.module(hidden_ND))
        return logits

    def learning(self) -> list[nn.Parameter]:
        """Its parameters that learn. Asked anew at every step: sharding exchanges them."""
        return [p for p in self.module.parameters() if p.requires_grad]


def _candidates(model: PreTrainedModel) -> Iterator[Finish]:
    """What architectures do behind the head, by the settings in which they say so."""
    config = model.config.get_text_config()
    yield lambda logits: logits
    for name in ("logit_scale", "lm_head_multiplier"):
        if isinstance(factor := getattr(config, name, None), int | float):
            yield lambda logits, factor=factor: logits * factor  # type: ignore[misc]
    for name in ("logits_scaling", "logits_scale"):
        if isinstance(factor := getattr(config, name, None), int | float) and factor:
            yield lambda logits, factor=factor: logits / factor  # type: ignore[misc]
    cap = getattr(config, "final_logit_softcapping", None)
    if isinstance(cap, int | float) and cap:
        yield lambda logits: torch.tanh(logits / cap) * cap


@torch.no_grad()
def find_head(model: PreTrainedModel) -> Head:
    """The head of a model, proven by comparing its logits with the model's own.

    Raises:
        ConfigError: the model does something to its logits that is not known here.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, min(vocabulary(model), 1000), (1, 8), generator=random).to(device)
    expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    hidden = body(model)(input_ids=tokens, use_cache=False).last_hidden_state[0]
    model.train(training)
    for finish in _candidates(model):
        head = Head(output_head(model), finish)
        if torch.allclose(head(hidden).float(), expected, rtol=1e-3, atol=1e-3):
            return head
    raise ConfigError(
        f"{type(model).__name__} changes its logits in a way that is not known here; "
        "please report the architecture"
    )
