"""Policy-gradient training: one objective, and the independent choices that the papers differ in.

A kind is a paper: a set of defaults, each of which a run may say otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.alignment import ReferredSection, RlhfSection
from swift.registry import variant

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


def part_of(group: str) -> AfterValidator:
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
Correction = Annotated[
    Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] | None,
    BeforeValidator(lambda value: None if value == "none" else value),
]


_LOSSES = {
    "grpo": ("clip", "sample"),
    "bnpo": ("clip", "token"),
    "dapo": ("clip", "token"),
    "dr_grpo": ("clip", "constant"),
    "sapo": ("sapo", "sample"),
    "cispo": ("cispo", "token"),
    "fipo": ("fipo", "token"),
}
"""The losses of ms-swift's --loss_type: gate and aggregate."""

_ESTIMATORS = {"leave_one_out": "none", "batch": "batch"}
"""Advantages that ms-swift ties to a scale, and to a distance in the reward."""


class PolicySection(ReferredSection):
    """What is learned from rewarded answers."""

    task: ClassVar[str] = "prompt"
    critic: ClassVar[bool] = False
    """Whether a critic says what tokens are worth: the advantage gae asks it."""

    advantage: Annotated[str, part_of("advantage")] = "group"
    """How rewards become advantages: group (minus the mean of the prompt's answers),
    leave_one_out (minus the mean of the others), batch (group, then scaled over the batch), gdpo
    (each reward normalised apart, then summed), or one of a plug-in."""

    scale_rewards: Scale = "group"
    """Divide advantages by the standard deviation within a group, over the batch, or not."""

    ratio: Annotated[str, part_of("ratio")] = "token"
    """What the ratio of new to old policy is of: token, sequence (geometric mean), sequence_token
    (its value with a token's gradient) or trajectory (product)."""

    gate: Annotated[str, part_of("gate")] = "clip"
    """What keeps a step near the old policy: clip, cispo, sapo, fipo or none."""

    loss_type: Literal["grpo", "bnpo", "dapo", "dr_grpo", "sapo", "cispo", "fipo"] | None = None
    """Gate and aggregate by one name, as ms-swift has it: grpo (clip, sample), bnpo and dapo (clip,
    token), dr_grpo (clip, constant), sapo (sapo, sample), cispo (cispo, token), fipo (fipo,
    token)."""

    aggregate: Annotated[str, part_of("aggregate")] = "sample"
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
    """How much distance to the reference costs; 0: there is no reference."""

    kl: Annotated[str, part_of("kl")] = "k3"
    """Estimate of that distance: k1, k2 or k3 (J. Schulman, Approximating KL divergence)."""

    kl_unbiased: bool = False
    """Multiply the distance in the loss by the ratio, which makes k3's gradient that of the KL
    (DeepSeek-V3.2, arXiv:2512.02556)."""

    kl_in_reward: bool = False
    """Take the distance off the reward instead of adding it to the loss."""

    num_iterations: int = Field(1, ge=1)
    """Times that the same answers are learned from."""

    steps_per_generation: int | None = Field(None, ge=1)
    """Micro-batches on one device that the answers of one generation make. Default: as many as one
    step takes; more are dealt out to several steps."""

    dynamic_sample: bool = False
    """Answer further prompts in place of those whose answers all have the same reward (DAPO)."""

    max_resample_times: int = Field(3, ge=1)
    """Most times that this is tried for a generation."""

    overlong_filter: bool = False
    """Learn nothing from answers that were cut off at max_completion_length."""

    top_entropy_quantile: float = Field(1.0, gt=0, le=1)
    """Learn from this part of the tokens, those of highest entropy (arXiv:2506.01939)."""

    correction: Correction = "token_truncate"
    """How a difference between the engine's and the trainer's probabilities is corrected: weights
    of tokens or sequences, bounded (truncate) or left out beyond the bound (mask); none."""

    correction_threshold: float = Field(2.0, gt=0)
    """The bound."""

    off_policy_mask: float | None = Field(None, gt=0)
    """Leave out answers of negative advantage whose tokens became less likely by more than this
    on average, in nats (DeepSeek-V3.2)."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """What one word of ms-swift stands for, wherever it is not said otherwise."""
        if not isinstance(given, dict):
            return given
        if given.get("scale_rewards") == "gdpo":
            given = {**given, "advantage": "gdpo", "scale_rewards": "group"}
        if (advantage := given.get("advantage")) in _ESTIMATORS:
            tied = {"scale_rewards": _ESTIMATORS[advantage], "kl_in_reward": True}
            given = {**tied, **given}
        if (loss := given.get("loss_type")) in _LOSSES:
            gate, aggregate = _LOSSES[loss]
            given = {"gate": gate, "aggregate": aggregate, **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> PolicySection:
        path, why = "", ""
        if self.gate == "cispo" and self.epsilon_high is None:
            path, why = "epsilon_high", "is needed with the gate cispo: --epsilon_high 5"
        elif self.kl_in_reward and self.advantage == "gdpo":
            path, why = "kl_in_reward", "has no place in gdpo, which normalises each reward apart"
        elif (self.advantage == "gae") != self.critic:
            path, why = "advantage", "gae and the critic of --rlhf_type ppo go together"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"rlhf.{path}", "why": why})
        return self

    @property
    def reference_free(self) -> bool:
        """Whether no reference is asked."""
        return not self.beta

    @property
    def high(self) -> float:
        """The upper clip range."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


@variant(RlhfSection, "grpo", code="swift.rl.setup:objective")
class GrpoSection(PolicySection):
    """GRPO (arXiv:2402.03300); every choice of its relatives can be made here too."""

    kind: Literal["grpo"] = "grpo"


@variant(RlhfSection, "dapo", code="swift.rl.setup:objective")
class DapoSection(PolicySection):
    """DAPO (arXiv:2503.14476): clip higher, every token alike, groups with signal only."""

    kind: Literal["dapo"] = "dapo"
    aggregate: Annotated[str, part_of("aggregate")] = "token"
    epsilon_high: float | None = Field(0.28, ge=0)
    beta: float = Field(0.0, ge=0)
    dynamic_sample: bool = True
    overlong_filter: bool = True


@variant(RlhfSection, "dr_grpo", code="swift.rl.setup:objective")
class DrGrpoSection(PolicySection):
    """Dr. GRPO (arXiv:2503.20783): no division by lengths or by the groups' deviations."""

    kind: Literal["dr_grpo"] = "dr_grpo"
    aggregate: Annotated[str, part_of("aggregate")] = "constant"
    scale_rewards: Scale = "none"
    beta: float = Field(0.0, ge=0)


@variant(RlhfSection, "gspo", code="swift.rl.setup:objective")
class GspoSection(PolicySection):
    """GSPO (arXiv:2507.18071): the ratio of whole answers, in a narrow range."""

    kind: Literal["gspo"] = "gspo"
    ratio: Annotated[str, part_of("ratio")] = "sequence"
    epsilon: float = Field(3e-4, ge=0)
    epsilon_high: float | None = Field(4e-4, ge=0)
    beta: float = Field(0.0, ge=0)


@variant(RlhfSection, "sapo", code="swift.rl.setup:objective")
class SapoSection(PolicySection):
    """SAPO (arXiv:2511.20347): a soft gate in place of the clip."""

    kind: Literal["sapo"] = "sapo"
    gate: Annotated[str, part_of("gate")] = "sapo"
    beta: float = Field(0.0, ge=0)


@variant(RlhfSection, "cispo", code="swift.rl.setup:objective")
class CispoSection(PolicySection):
    """CISPO (arXiv:2506.13585): bounded weights, but a gradient of every token."""

    kind: Literal["cispo"] = "cispo"
    gate: Annotated[str, part_of("gate")] = "cispo"
    aggregate: Annotated[str, part_of("aggregate")] = "token"
    epsilon_high: float | None = Field(5.0, ge=0)
    beta: float = Field(0.0, ge=0)


@variant(RlhfSection, "rloo", code="swift.rl.setup:objective")
class RlooSection(PolicySection):
    """RLOO (arXiv:2402.14740): leave-one-out, an answer as one action, KL in the reward."""

    kind: Literal["rloo"] = "rloo"
    advantage: Annotated[str, part_of("advantage")] = "leave_one_out"
    scale_rewards: Scale = "none"
    ratio: Annotated[str, part_of("ratio")] = "trajectory"
    beta: float = Field(0.05, ge=0)
    kl: Annotated[str, part_of("kl")] = "k1"
    kl_in_reward: bool = True


@variant(RlhfSection, "reinforce_plus_plus", code="swift.rl.setup:objective")
class ReinforcePlusPlusSection(PolicySection):
    """REINFORCE++ with a baseline (arXiv:2501.03262): scaled over the batch, KL in the reward."""

    kind: Literal["reinforce_plus_plus"] = "reinforce_plus_plus"
    advantage: Annotated[str, part_of("advantage")] = "batch"
    scale_rewards: Scale = "batch"
    aggregate: Annotated[str, part_of("aggregate")] = "token"
    beta: float = Field(0.01, ge=0)
    kl: Annotated[str, part_of("kl")] = "k1"
    kl_in_reward: bool = True
