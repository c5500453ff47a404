"""Preference pairs of random tokens, for our losses and for those that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import LlamaForCausalLM

import tiny

LENGTHS = [(9, 7, 4), (5, 3, 8), (12, 6, 6), (4, 11, 5)]  # prompt, chosen, rejected
ONE = [(1, 9, 5)]  # a prompt that nothing predicts, and so no pair but one


@dataclass(frozen=True)
class Pair:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def pairs(lengths: list[tuple[int, int, int]] = LENGTHS) -> list[Pair]:
    random = np.random.default_rng(7)
    return [Pair(*(random.integers(3, 400, n).tolist() for n in three)) for three in lengths]


def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The model that learns, and the reference."""
    return tiny.make_model(seed=0), tiny.make_model(seed=1)


CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{
        name: ("dpo", {"loss_type": [name]})
        for name in (
            *("sigmoid", "hinge", "ipo", "bco_pair", "sppo_hard", "nca_pair", "robust"),
            *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop"),
        )
    },
    "exo_pair": ("dpo", {"loss_type": ["exo_pair"], "label_smoothing": 1e-3}),
    "robust smoothed": ("dpo", {"loss_type": ["robust"], "label_smoothing": 0.1}),
    "aot smoothed": ("dpo", {"loss_type": ["aot"], "label_smoothing": 0.1}),
    "beta": ("dpo", {"beta": 0.7}),
    "ld_alpha": ("dpo", {"ld_alpha": 0.3}),
    "forward_kl": ("dpo", {"f_divergence_type": "forward_kl"}),
    "js_divergence": ("dpo", {"f_divergence_type": "js_divergence"}),
    "alpha_divergence": ("dpo", {"f_divergence_type": "alpha_divergence"}),
    "mixture": ("dpo", {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.3]}),
    "sft, one pair": ("dpo", {"loss_type": ["sft"]}),
    "mpo, one pair": (
        "dpo",
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    ),
    "kto": ("kto", {}),
    "kto weighted": ("kto", {"desirable_weight": 0.5, "undesirable_weight": 1.7, "beta": 0.4}),
    "apo_zero_unpaired": ("kto", {"loss_type": "apo_zero_unpaired"}),
    "cpo": ("cpo", {"cpo_alpha": 0.0}),
    "cpo hinge": ("cpo", {"cpo_alpha": 0.0, "loss_type": "hinge"}),
    "cpo ipo": ("cpo", {"cpo_alpha": 0.0, "loss_type": "ipo"}),
    "cpo smoothed": ("cpo", {"cpo_alpha": 0.0, "label_smoothing": 0.2}),
    "cpo, one pair": ("cpo", {"cpo_alpha": 1.0}),
    "simpo": ("simpo", {"cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}),
    "simpo, one pair": ("simpo", {"cpo_alpha": 1.0, "beta": 2.0, "simpo_gamma": 1.0}),
    "orpo, one pair": ("orpo", {"beta": 0.1}),
    "rm": ("rm", {}),
    "rm centered": ("rm", {"center_rewards_coefficient": 0.01}),
}
"""What is compared: kind and settings. Where a term is by answer here and by token over a whole
batch in TRL, the batch is one pair."""


def lengths_of(case: str) -> list[tuple[int, int, int]]:
    return ONE if "one pair" in case else LENGTHS
