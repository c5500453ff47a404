"""What an answer is worth: the functions that judge it, their weights and settings."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift import registry
from swift.config.section import Numbers, Section, Strings, Word

registry.register(
    "reward", "accuracy", "swift.rl.rewards.accuracy:accuracy", needs="math_verify", extra="rl"
)
for _name in ("number", "format", "react_format", "cosine", "repetition", "soft_overlong"):
    registry.register("reward", _name, f"swift.rl.rewards.{_name}:{_name}")
registry.register("reward", "regex", "swift.rl.rewards.pattern:regex")
registry.register(
    "reward", "json_schema", "swift.rl.rewards.pattern:json_schema", needs="jsonschema", extra="rl"
)
registry.register("reward", "code", "swift.rl.rewards.code:code")
registry.register("reward", "judge", "swift.rl.rewards.judge:judge")
for _name in ("environment", "recorded"):  # what the episode itself brings
    registry.register("reward", _name, "swift.rl.rewards.environment:environment")


class RewardSection(Section):
    """What an answer is worth."""

    funcs: Strings = []
    """Functions that judge: accuracy, number, format, react_format, cosine, repetition,
    soft_overlong, regex, json_schema, code, judge, environment, recorded, or those of a plug-in.
    Default: what the environment or the recorded rows say, where there are such."""

    weights: Numbers = []
    """The weight of each function, then of each reward model. Default: 1 each."""

    models: Strings = []
    """Reward models: checkpoints that classify a conversation with one number."""

    environment: bool | None = None
    """Add up what the environment gives, as one more reward behind the others. Default: where it is
    a game (rollout.gym), or nothing else judges."""

    timeout_s: float = Field(60.0, gt=0)
    """Longest time that one function may take for a batch; later, nothing was judged."""

    cosine_min_len_value_wrong: float = -0.5
    """cosine: reward of a wrong answer of length 0."""

    cosine_max_len_value_wrong: float = 0.0
    """cosine: reward of a wrong answer of the greatest length."""

    cosine_min_len_value_correct: float = 1.0
    """cosine: reward of a right answer of length 0."""

    cosine_max_len_value_correct: float = 0.5
    """cosine: reward of a right answer of the greatest length."""

    cosine_max_len: int | None = Field(None, ge=1)
    """cosine: the greatest length in tokens. Default: max_completion_length."""

    repetition_n_grams: int = Field(3, ge=1)
    """repetition: words of a sequence that may be repeated."""

    repetition_max_penalty: float = Field(-1.0, le=0)
    """repetition: reward where everything is repetition."""

    soft_max_length: int | None = Field(None, ge=1)
    """soft_overlong: length in tokens with reward -1. Default: max_completion_length."""

    soft_cache_length: int | None = Field(None, ge=1)
    """soft_overlong: tokens below that from which the reward falls from 0."""

    regex: str | None = None
    """regex: the pattern that the whole answer must match."""

    schema_file: Word | None = None
    """json_schema: a file with the schema. Default: the row's column schema."""

    code_time_s: float = Field(10.0, gt=0)
    """code: longest time of one program."""

    code_memory_mib: int = Field(512, ge=64)
    """code: memory of one program."""

    judge_url: Word | None = None
    """judge: an OpenAI-compatible server, such as http://localhost:8000/v1."""

    judge_model: str = "default"
    """judge: the model's name there."""

    judge_prompt: str = (
        "Question:\n{question}\n\nAnswer:\n{answer}\n\nReference:\n{solution}\n\n"
        "How good is the answer, from 0 (useless) to 1 (perfect)? Reply with `Score: x`."
    )
    """judge: what it is asked; {question}, {answer} and columns of the row are filled in."""

    @model_validator(mode="after")
    def _check(self) -> RewardSection:
        path, why = "", ""
        if "soft_overlong" in self.funcs and self.soft_cache_length is None:
            path, why = "soft_cache_length", "is needed by soft_overlong"
        elif "regex" in self.funcs and self.regex is None:
            path, why = "regex", "is needed by the reward regex"
        elif "judge" in self.funcs and self.judge_url is None:
            path, why = "judge_url", "is needed by the reward judge"
        elif unknown := [name for name in self.funcs if name not in registry.entries("reward")]:
            path = "funcs"
            why = f"{unknown[0]!r} is not one of {', '.join(registry.entries('reward'))}"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"reward.{path}", "why": why})
        return self
