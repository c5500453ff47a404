"""PPO: a critic says what every token was worth."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.alignment import RlhfSection
from swift.config.policy import PolicySection, Scale, part_of
from swift.config.section import Word
from swift.registry import variant

registry.register("advantage", "gae", "swift.rl.gae:gae")


@variant(RlhfSection, "ppo", code="swift.rl.setup:objective")
class PpoSection(PolicySection):
    """PPO (arXiv:1707.06347): a critic's value for every token, KL in the reward of every token.

    Defaults are those of TRL's PPOTrainer and ms-swift 4.
    """

    critic: ClassVar[bool] = True

    kind: Literal["ppo"] = "ppo"
    advantage: Annotated[str, part_of("advantage")] = "gae"
    scale_rewards: Scale = "batch"
    aggregate: Annotated[str, part_of("aggregate")] = "token"
    beta: float = Field(0.05, ge=0)
    kl: Annotated[str, part_of("kl")] = "k1"
    kl_in_reward: bool = True
    num_iterations: int = Field(4, ge=1)

    num_mini_batches: int = Field(1, ge=1)
    """Steps that the answers of a generation are dealt out to, once."""

    gamma: float = Field(1.0, ge=0, le=1)
    """What a reward is worth one token earlier."""

    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantages: 0 believes the critic, 1 the rewards."""

    vf_coef: float = Field(0.1, ge=0)
    """Weight of the critic's loss."""

    cliprange_value: float = Field(0.2, gt=0)
    """How far a value may move from where it was at the generation."""

    whiten_rewards: bool = False
    """Scale the rewards of tokens to a deviation of 1 over the generation."""

    missing_eos_penalty: float | None = Field(None, gt=0)
    """Taken off the reward of an answer that was cut off."""

    value_model: Word | None = None
    """The critic: a model of its own, such as a reward model, all of which learns. Default: a
    value head on the hidden states of the policy."""

    @model_validator(mode="after")
    def _check_critic(self) -> PpoSection:
        path, why = "", ""
        if self.scale_rewards == "group":
            path, why = "scale_rewards", "has no groups here: batch or none"
        elif self.dynamic_sample:
            path, why = "dynamic_sample", "is for groups of answers; leave it out"
        elif self.steps_per_generation and self.num_mini_batches > 1:
            path, why = "num_mini_batches", "says the same as steps_per_generation; leave one out"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"rlhf.{path}", "why": why})
        return self
