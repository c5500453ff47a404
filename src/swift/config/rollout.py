"""How answers are drawn while a policy learns."""

from __future__ import annotations

from pydantic import Field

from swift import registry
from swift.config.section import Options, Section, Strings

registry.register("environment", "gym", "swift.rl.environment:gym")
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
    """What reacts to answers: gym, reasoning_gym, or one of a plug-in. Default: nothing does."""

    environment_settings: Options = {}
    """Settings of the environment, as JSON."""

    max_turns: int = Field(8, ge=1)
    """Most answers of one episode, where an environment reacts."""

    log_completions: bool = False
    """Write every answer with its rewards and its advantage to completions.jsonl."""
