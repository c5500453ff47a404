"""What a run of ``swift rlhf`` learns from rows of preferences: one section per family.

Defaults are those of ms-swift 4 (``RLHFArguments``), and where it leaves them open those of TRL.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.learned import LearnedSection
from swift.config.section import Numbers, Strings, Word
from swift.registry import variant

DIVERGENT = ("sigmoid", "hinge", "ipo", "exo_pair", "robust", "discopop")
"""Losses of pairs that are made of the two scores alone, so that any f-divergence gives them."""

for _name in (
    *DIVERGENT,
    *("bco_pair", "sppo_hard", "nca_pair", "aot", "aot_unpaired", "apo_zero", "apo_down", "sft"),
):
    registry.register("pair loss", _name, f"swift.losses.preference:{_name}")


class RlhfSection(LearnedSection):
    """What is learned of answers, and by which loss."""

    task: ClassVar[str] = "preference"


class ReferredSection(RlhfSection):
    """A loss that compares the model with a reference: where that comes from."""

    beta: float = Field(0.1, gt=0)
    """How strongly the model is held at the reference; rewards are beta times the log-ratio."""

    ref_model: Word | None = None
    """The reference, another model. Default: the model as it is at the start; with an adapter that
    is the model without it, and takes no memory."""

    ref_adapters: Strings = []
    """An adapter of the reference. Default: the one that is trained on (model.adapters)."""


@variant(RlhfSection, "dpo", code="swift.train.preference:dpo")
class DpoSection(ReferredSection):
    """Direct preference optimization (arXiv:2305.18290) and its relatives."""

    kind: Literal["dpo"] = "dpo"

    loss_type: Strings = ["sigmoid"]
    """The loss of a pair: sigmoid, robust, exo_pair, hinge, ipo, bco_pair, sppo_hard, nca_pair,
    aot, aot_unpaired, apo_zero, apo_down, discopop or sft; several are added up by
    loss_weights."""

    loss_weights: Numbers = []
    """The weight of each of several losses. Default: 1 each."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round; of sigmoid, robust, aot and
    aot_unpaired. exo_pair needs one, and takes 0.001 where it is 0."""

    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = (
        "reverse_kl"
    )
    """What holds the model at the reference (arXiv:2309.16240)."""

    f_alpha_divergence_coef: float = 0.5
    """Alpha of alpha_divergence."""

    reference_free: bool = False
    """Take a reference that finds every answer equally likely."""

    rpo_alpha: float | None = Field(None, ge=0)
    """Weight of the loss of fine-tuning on the chosen answer (arXiv:2404.19733, equation 1)."""

    ld_alpha: float | None = Field(None, ge=0, le=1)
    """Weight of the tokens by which the longer answer of a pair is longer (arXiv:2409.06411)."""

    discopop_tau: float = Field(0.05, gt=0)
    """Temperature of discopop."""

    precompute_ref_log_probs: bool = False
    """Ask the reference once, before the start, and keep the answers on disk: the second model
    takes no memory while training, and no time in later epochs and runs."""

    @field_validator("loss_type")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        known = registry.entries("pair loss")
        wrong = [name for name in value if name not in known]
        if wrong or not value:
            why = f"{wrong[0]!r} is not one of {', '.join(known)}" if wrong else "names no loss"
            raise PydanticCustomError("where", "{why}", {"path": "rlhf.loss_type", "why": why})
        return value

    @model_validator(mode="after")
    def _fits(self) -> DpoSection:
        path, why = "", ""
        count = len(self.loss_type)
        foreign = [n for n in self.loss_type if n not in (*DIVERGENT, "sft")]
        if self.loss_weights and len(self.loss_weights) != count:
            path, why = "loss_weights", f"{len(self.loss_weights)} given for {count} losses"
        elif self.f_divergence_type != "reverse_kl" and foreign:
            path = "f_divergence_type"
            why = f"{foreign[0]} is defined for reverse_kl alone"
        elif self.reference_free and (self.ref_model or self.precompute_ref_log_probs):
            path, why = "reference_free", "there is a reference too; leave out the one or the other"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"rlhf.{path}", "why": why})
        return self


@variant(RlhfSection, "kto", code="swift.train.unpaired:kto")
class KtoSection(ReferredSection):
    """Kahneman-Tversky optimization (arXiv:2402.01306): answers that are good or bad, each by
    itself.
    """

    kind: Literal["kto"] = "kto"
    task: ClassVar[str] = "unpaired"

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """kto, or the same without its reference point (arXiv:2408.06266, equation 7, one by one)."""

    desirable_weight: float = Field(1.0, ge=0)
    """Weight of good answers."""

    undesirable_weight: float = Field(1.0, ge=0)
    """Weight of bad answers."""


class ComparedSection(RlhfSection):
    """A loss that compares the answers of a pair, without a reference."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round."""

    cpo_alpha: float = Field(1.0, ge=0)
    """Weight of the loss of fine-tuning on the chosen answer."""


@variant(RlhfSection, "cpo", code="swift.train.preference:cpo")
class CpoSection(ComparedSection):
    """Contrastive preference optimization (arXiv:2401.08417)."""

    kind: Literal["cpo"] = "cpo"

    beta: float = Field(0.1, gt=0)
    """Rewards are beta times the log-probability."""

    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """The loss of a pair; ipo looks at the log-probability of an answer's token on average."""


@variant(RlhfSection, "simpo", code="swift.train.preference:simpo")
class SimpoSection(ComparedSection):
    """Simple preference optimization (arXiv:2405.14734): rewards by token, and a margin.

    With cpo_alpha 0 it is the method of the paper.
    """

    kind: Literal["simpo"] = "simpo"

    beta: float = Field(2.0, gt=0)
    """Rewards are beta times the log-probability of an answer's token on average."""

    simpo_gamma: float = Field(1.0, ge=0)
    """The margin that the chosen answer's reward should have over the other's."""


@variant(RlhfSection, "orpo", code="swift.train.preference:orpo")
class OrpoSection(RlhfSection):
    """Odds ratio preference optimization (arXiv:2403.07691): fine-tuning on the chosen answer, and
    the odds of it over the rejected one.
    """

    kind: Literal["orpo"] = "orpo"

    beta: float = Field(0.1, gt=0)
    """Weight of the odds ratio (lambda of the paper)."""


@variant(RlhfSection, "rm", code="swift.train.reward:rm")
class RmSection(RlhfSection):
    """A reward model (Bradley-Terry): a score for an answer, higher for the chosen one."""

    kind: Literal["rm"] = "rm"

    center_rewards_coefficient: float | None = Field(None, ge=0)
    """Weight of the square of a pair's summed scores, which holds scores around 0
    (arXiv:2312.09244, section 2); 0.01 is usual."""

    @property
    def scores(self) -> int | None:
        """A score."""
        return 1


@variant(RlhfSection, "prm", code="swift.train.steps:prm")
class PrmSection(RlhfSection):
    """A process reward model (arXiv:2211.14275): of each step of an answer, whether it is right."""

    kind: Literal["prm"] = "prm"
    task: ClassVar[str] = "steps"

    @property
    def scores(self) -> int | None:
        """Of wrong and right."""
        return 2

    @property
    def each_token(self) -> bool:
        """Behind every step."""
        return True
