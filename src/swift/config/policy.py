"""Policy-gradient training: one objective, and the independent choices that the papers differ in.

A kind is a paper: a set of defaults, each of which a run may say otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.section import Section

_PARTS = {
    "advantage": ("swift.rl.advantage", "group", "leave_one_out", "batch", "gdpo"),
    "ratio": ("swift.losses.ratio", "token", "sequence", "sequence_token", "trajectory"),
    "gate": ("swift.losses.gate", "clip", "cispo", "sapo", "fipo", "none"),
    "aggregate": ("swift.losses.aggregate", "sample", "token", "constant"),
    "kl": ("swift.losses.kl", "k1", "k2", "k3"),
}
for _group, (_module, *_names) in _PARTS.items():
    for _name in _names:
        registry.register(_group, _name, f"{_module}:{_name}")


def _of(group: str) -> AfterValidator:
    """Any part that is registered in a group, those of plug-ins too."""

    def check(name: str) -> str:
        known = registry.entries(group)
        if name not in known:
            raise PydanticCustomError(
                "variant_kind",
                "no kind {kind}",
                {"kind": repr(name), "expected": ", ".join(known), "field": group},
            )
        return name

    return AfterValidator(check)


def _scale(value: object) -> object:
    """ms-swift before 3.10 said true and false."""
    return {"true": "group", "false": "none"}.get(str(value).lower(), value)


Scale = Annotated[Literal["group", "batch", "none"], BeforeValidator(_scale)]
Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class PolicySection(Section):
    """What is learned from rewarded answers; defaults are those of GRPO (arXiv:2402.03300)."""

    advantage: Annotated[str, _of("advantage")] = "group"
    """How rewards become advantages: group (minus the mean of the prompt's answers),
    leave_one_out (minus the mean of the others), batch (group, then scaled over the batch), gdpo
    (each reward normalised apart, then summed), or one of a plug-in."""

    scale_rewards: Scale = "group"
    """Divide advantages by the standard deviation within a group, over the batch, or not."""

    ratio: Annotated[str, _of("ratio")] = "token"
    """What the ratio of new to old policy is of: token, sequence (geometric mean), sequence_token
    (its value with a token's gradient) or trajectory (product)."""

    gate: Annotated[str, _of("gate")] = "clip"
    """What keeps a step near the old policy: clip, cispo, sapo, fipo or none."""

    aggregate: Annotated[str, _of("aggregate")] = "sample"
    """What counts alike: every sample, every token of a step, or every token as a part of
    max_completion_length (constant)."""

    epsilon: float = Field(0.2, ge=0)
    """Ratios below 1 - epsilon are clipped."""

    epsilon_high: float | None = Field(None, ge=0)
    """Ratios above 1 + epsilon_high are clipped (cispo: above epsilon_high). Default: epsilon."""

    delta: float | None = Field(None, gt=1)
    """Ratios are bounded by this for negative advantages too (two-sided clipping)."""

    tau_pos: float = Field(1.0, gt=0)
    """sapo: sharpness of the gate for positive advantages."""

    tau_neg: float = Field(1.05, gt=0)
    """sapo: the same for negative ones."""

    fipo_decay_rate: float = Field(32.0, gt=0)
    """fipo: tokens after which a later token counts half."""

    fipo_clip_range: float | None = Field(0.2, ge=0)
    """fipo: how far a token's weight may be from 1; 0 or none: any."""

    fipo_clip_high_only: bool = True
    """fipo: weights are never below 1."""

    fipo_safety_threshold: float | None = Field(4.0, gt=0)
    """fipo: above this ratio a token of negative advantage weighs at most 1."""

    beta: float = Field(0.04, ge=0)
    """How much distance to the reference model costs; 0: there is no reference model."""

    kl: Annotated[str, _of("kl")] = "k3"
    """Estimate of that distance: k1, k2 or k3 (J. Schulman, Approximating KL divergence)."""

    kl_unbiased: bool = False
    """Multiply the distance in the loss by the ratio, which makes k3's gradient that of the KL
    (DeepSeek-V3.2, arXiv:2512.02556)."""

    kl_in_reward: bool = False
    """Take the distance off the reward instead of adding it to the loss."""

    num_iterations: int = Field(1, ge=1)
    """Times that the same answers are learned from."""

    steps_per_generation: int = Field(1, ge=1)
    """Optimizer steps that the answers of one generation are dealt out to."""

    dynamic_sample: bool = False
    """Answer further prompts in place of those whose answers all have the same reward (DAPO)."""

    max_resample_times: int = Field(3, ge=1)
    """Most times that this is tried for a generation."""

    overlong_filter: bool = False
    """Learn nothing from answers that were cut off at max_completion_length."""

    top_entropy_quantile: float = Field(1.0, gt=0, le=1)
    """Learn from this part of the tokens, those of highest entropy (arXiv:2506.01939)."""

    correction: Correction | None = "token_truncate"
    """How a difference between the engine's and the trainer's probabilities is corrected: weights
    of tokens or sequences, bounded (truncate) or left out beyond the bound (mask); none."""

    correction_threshold: float = Field(2.0, gt=0)
    """The bound."""

    off_policy_mask: float | None = Field(None, gt=0)
    """Leave out answers of negative advantage whose tokens became less likely by more than this
    on average, in nats (DeepSeek-V3.2)."""

    @model_validator(mode="after")
    def _check(self) -> PolicySection:
        path, why = "", ""
        if self.gate == "cispo" and self.epsilon_high is None:
            path, why = "epsilon_high", "is needed with the gate cispo: --epsilon_high 5"
        elif self.kl_in_reward and self.advantage == "gdpo":
            path, why = "kl_in_reward", "has no place in gdpo, which normalises each reward apart"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self

    @property
    def high(self) -> float:
        """The upper clip range."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


class DapoSection(PolicySection):
    """DAPO (arXiv:2503.14476): clip higher, every token alike, groups with signal only."""

    aggregate: Annotated[str, _of("aggregate")] = "token"
    epsilon_high: float | None = Field(0.28, ge=0)
    beta: float = Field(0.0, ge=0)
    dynamic_sample: bool = True
    overlong_filter: bool = True


class DrGrpoSection(PolicySection):
    """Dr. GRPO (arXiv:2503.20783): no division by lengths or by the groups' deviations."""

    aggregate: Annotated[str, _of("aggregate")] = "constant"
    scale_rewards: Scale = "none"
    beta: float = Field(0.0, ge=0)


class GspoSection(PolicySection):
    """GSPO (arXiv:2507.18071): the ratio of whole answers, in a narrow range."""

    ratio: Annotated[str, _of("ratio")] = "sequence"
    epsilon: float = Field(3e-4, ge=0)
    epsilon_high: float | None = Field(4e-4, ge=0)
    beta: float = Field(0.0, ge=0)


class SapoSection(PolicySection):
    """SAPO (arXiv:2511.20347): a soft gate in place of the clip."""

    gate: Annotated[str, _of("gate")] = "sapo"
    beta: float = Field(0.0, ge=0)


class CispoSection(PolicySection):
    """CISPO (arXiv:2506.13585): bounded weights, but a gradient of every token."""

    gate: Annotated[str, _of("gate")] = "cispo"
    aggregate: Annotated[str, _of("aggregate")] = "token"
    epsilon_high: float | None = Field(5.0, ge=0)
    beta: float = Field(0.0, ge=0)


class RlooSection(PolicySection):
    """RLOO (arXiv:2402.14740): leave-one-out, an answer as one action, KL in the reward."""

    advantage: Annotated[str, _of("advantage")] = "leave_one_out"
    scale_rewards: Scale = "none"
    ratio: Annotated[str, _of("ratio")] = "trajectory"
    beta: float = Field(0.05, ge=0)
    kl: Annotated[str, _of("kl")] = "k1"
    kl_in_reward: bool = True


class ReinforcePlusPlusSection(PolicySection):
    """REINFORCE++ with a baseline (arXiv:2501.03262): scaled over the batch, KL in the reward."""

    advantage: Annotated[str, _of("advantage")] = "batch"
    scale_rewards: Scale = "batch"
    aggregate: Annotated[str, _of("aggregate")] = "token"
    beta: float = Field(0.01, ge=0)
    kl: Annotated[str, _of("kl")] = "k1"
    kl_in_reward: bool = True
