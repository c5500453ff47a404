"""How answers are drawn while a policy learns."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.section import Options, Section, Strings

registry.register("environment", "gym", "swift.rl.environment:gym")
registry.register("environment", "async_gym", "swift.rl.async_gym:async_gym")
registry.register(
    "environment",
    "reasoning_gym",
    "swift.rl.reasoning:reasoning_gym",
    needs="reasoning_gym",
    extra="rl",
)


class RolloutSection(Section):
    """How answers are drawn; the trainer computes with the same temperature and cuts."""

    num_generations: int = Field(8, ge=1)
    """Answers to each prompt: a group. Default with a critic: 1."""

    max_completion_length: int = Field(512, ge=1)
    """Longest answer in tokens; with several turns, of each."""

    temperature: float = Field(1.0, gt=0)
    """Randomness of the choice of a token."""

    top_p: float = Field(1.0, gt=0, le=1)
    """Choose among the most likely tokens that together have this probability."""

    top_k: int = Field(0, ge=0)
    """Choose among this many most likely tokens; 0: all."""

    min_p: float = Field(0.0, ge=0, lt=1)
    """Choose among tokens that are at least this part as likely as the most likely one."""

    stop: Strings = []
    """Texts that end an answer."""

    batch_size: int | None = Field(None, ge=1)
    """Answers generated at once on one device. Default: all of its own."""

    environment: str | None = None
    """What reacts to answers: gym, async_gym, reasoning_gym, or one of a plug-in. Default: nothing
    does."""

    environment_settings: Options = {}
    """Settings of the environment, as JSON."""

    gym: bool = False
    """The environment is a game: there must be one, and what it gives is a reward beside those that
    are named, unless reward.environment says otherwise."""

    max_turns: int = Field(8, ge=1)
    """Most answers of one episode, where an environment reacts."""

    recorded: bool = False
    """Learn from the answers and rewards that rows bring (completions and rewards, or reward
    beside a conversation); no engine is asked."""

    log_completions: bool = False
    """Write every answer with its rewards and its advantage to completions.jsonl."""

    @field_validator("environment")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        known = registry.entries("environment")
        if value is not None and value not in known:
            why = (
                f"{value!r} is not one of {', '.join(known)}; register it in the group environment "
                "in a file of your own (--external_plugins)"
            )
            path = "rollout.environment"
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return value
