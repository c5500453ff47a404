"""AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from swift.config.optimizer import AdamWSection
from swift.errors import ConfigError
from swift.models.parts import Part


def build(
    section: AdamWSection,
    named: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    part_of: Callable[[str], Part] | None = None,
) -> torch.optim.Optimizer:
    """AdamW (arXiv:1711.05101) over the parameters that learn; matrices decay, vectors do not.

    Args:
        section: its settings.
        named: parameters with their names, in a fixed order.
        learning_rate: peak rate.
        part_of: the part of the model that a name belongs to. A group whose part has a rate of its
            own has an entry ``share``: its rate as a multiple of ``learning_rate``.

    Raises:
        ConfigError: a rate is set for a part, and nothing in it learns.
    """
    rates = _rates(section)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    used: set[Part] = set()
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part = part_of(name) if part_of else "language"
        used.add(part)
        rate = rates.get(part, learning_rate)
        groups.setdefault((rate, parameter.ndim >= 2), []).append(parameter)
    _must_learn(section, used)
    return torch.optim.AdamW(
        [
            _group(parameters, rate, section.weight_decay if decays else 0.0, learning_rate)
            for (rate, decays), parameters in sorted(groups.items(), key=_order(learning_rate))
        ],
        lr=learning_rate,
        betas=(section.beta1, section.beta2),
        eps=section.epsilon,
        fused=True,
    )


def _rates(section: AdamWSection) -> dict[Part, float]:
    """Rates of parts that have one of their own."""
    rates: dict[Part, float] = {}
    if section.vit_lr is not None:
        rates |= {"vision": section.vit_lr, "audio": section.vit_lr}
    if section.aligner_lr is not None:
        rates["aligner"] = section.aligner_lr
    return rates


def _must_learn(section: AdamWSection, used: set[Part]) -> None:
    if section.vit_lr is not None and not used & {"vision", "audio"}:
        raise ConfigError("--vit_lr: no tower learns; add --freeze_vit false, or leave it out")
    if section.aligner_lr is not None and "aligner" not in used:
        raise ConfigError(
            "--aligner_lr: no aligner learns; add --freeze_aligner false, or leave it out"
        )


def _order(main: float) -> Callable[[Any], Any]:
    """The main rate first; matrices before vectors."""
    return lambda item: (item[0][0] != main, item[0][0], not item[0][1])


def _group(
    parameters: list[nn.Parameter], rate: float, decay: float, main: float
) -> dict[str, Any]:
    own = {} if rate == main else {"lr": rate, "share": rate / main}
    return {"params": parameters, "weight_decay": decay, **own}
