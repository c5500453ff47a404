"""The root of each command's configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.alignment import DpoSection, RlhfSection
from swift.config.chord import ChordSection
from swift.config.data import AnswersSection, ConversationsSection, DataSection, TextsSection
from swift.config.distill import GkdSection
from swift.config.engine import LmdeploySection, SglangSection, VllmSection
from swift.config.infer import EngineSection, InferSection
from swift.config.inspect import InspectSection
from swift.config.model import ModelSection, UsedModelSection
from swift.config.optimizer import AdamWSection, CosineSection, OptimizerSection, ScheduleSection
from swift.config.parallel import ParallelSection
from swift.config.reward import RewardSection
from swift.config.rewarded import answered_once, misfit
from swift.config.rollout import RolloutSection
from swift.config.section import Section, Strings, Variants, Word
from swift.config.serve import ServeSection
from swift.config.task import TaskSection, WritingSection
from swift.config.train import TrainSection
from swift.config.tuner import LoraSection, TunerSection
from swift.config.verify import TriedSection

Tuner = Annotated[TunerSection, Variants(TunerSection, "lora")]
Optimizer = Annotated[OptimizerSection, Variants(OptimizerSection, "adamw")]
Rlhf = Annotated[RlhfSection, Variants(RlhfSection, "dpo")]
Schedule = Annotated[ScheduleSection, Variants(ScheduleSection, "cosine")]
Task = Annotated[TaskSection, Variants(TaskSection, "causal_lm")]


def _none(value: Any) -> Any:
    return [] if value in ("none", ["none"]) else value


class TrainingConfig(Section):
    """What every command that trains has in common."""

    model: ModelSection
    tuner: Tuner = LoraSection()
    data: ConversationsSection
    optimizer: Optimizer = AdamWSection()
    schedule: Schedule = CosineSection()
    train: TrainSection = TrainSection()
    parallel: ParallelSection = ParallelSection()

    output: Word | None = None
    """Folder of the run. Default: output/<model>-<command>. When it holds a run already, a new
    one goes to v1, v2 ... inside it."""

    report: Annotated[Strings, BeforeValidator(_none)] = ["tensorboard"]
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, swanlab, or none."""

    run_name: str | None = None
    """Name of the run in trackers. Default: the output folder."""

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without training."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.model.dtype == "float16":
            why = "float16 overflows in training; use bfloat16 or float32"
            raise PydanticCustomError("where", "{why}", {"path": "model.dtype", "why": why})
        return self

    @model_validator(mode="after")
    def _check_stream(self) -> TrainingConfig:
        if not self.data.streaming:
            return self
        path, why = "", "nobody knows how long an epoch of a stream is; say steps"
        if self.train.max_steps is None:
            path = "train.max_steps"
            why = "is needed with --streaming: nobody knows how many rows are to come"
        elif self.train.save == "epoch":
            path = "train.save"
        elif self.train.evaluate == "epoch":
            path = "train.evaluate"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self


class SftConfig(TrainingConfig):
    """swift sft: fine-tune on conversations, or on the rows of another task."""

    command: Literal["sft"] = "sft"
    task: Task = WritingSection()


class PtConfig(TrainingConfig):
    """swift pt: go on with pre-training on plain text; every token is learned."""

    command: Literal["pt"] = "pt"
    data: TextsSection


class RlhfConfig(TrainingConfig):
    """swift rlhf: learn from preferences, or from rewards."""

    command: Literal["rlhf"] = "rlhf"
    data: AnswersSection
    rlhf: Rlhf = DpoSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    vllm: VllmSection = VllmSection()
    chord: ChordSection = ChordSection()

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, given: Any) -> Any:
        """A critic needs no group: each prompt is answered once, unless it is said otherwise."""
        return answered_once(given)

    @model_validator(mode="after")
    def _check_rewards(self) -> RlhfConfig:
        path, why = misfit(self)
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self

    @model_validator(mode="after")
    def _check_writing(self) -> RlhfConfig:
        if isinstance(self.rlhf, GkdSection) and self.rlhf.writes and self.parallel.shard != "none":
            why = "the model answers while it learns, so each process holds all of it; --lmbda 0"
            raise PydanticCustomError("where", "{why}", {"path": "parallel.shard", "why": why})
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> RlhfConfig:
        if not getattr(self.rlhf, "precompute_ref_log_probs", False):
            return self
        path, why = "rlhf.precompute_ref_log_probs", ""
        if self.data.streaming:
            why = "a stream passes by but once"
        elif self.parallel.shard != "none":
            why = "not with a sharded model; leave out --deepspeed or --fsdp, or this"
        if why:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self


class InspectingConfig(TrainingConfig):
    """What a training command takes, and how much of its data is shown."""

    inspect: InspectSection = InspectSection()

    output: Word | None = None
    """Folder of the page, inspect.html. Default: output/inspect."""

    dry_run: bool = False
    """Print only; write no page."""


class InspectConfig(InspectingConfig):
    """swift inspect: what swift sft would learn, token by token."""

    command: Literal["sft"] = "sft"
    task: Task = WritingSection()


class InspectTextsConfig(InspectingConfig):
    """swift inspect pt: what swift pt would learn, token by token."""

    command: Literal["pt"] = "pt"
    data: TextsSection


class CachedConfig(Section):
    """swift export --to_cached_dataset true: tokens in a folder, to learn from elsewhere."""

    command: Literal["export"] = "export"
    model: ModelSection
    data: ConversationsSection

    to_cached_dataset: bool = True
    """Write tokens; learn from them with --cached_dataset."""

    output: Word | None = None
    """Folder of the tokens, with a part train and perhaps a part val. Default:
    output/<model>-tokens."""

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without writing."""

    @model_validator(mode="after")
    def _check(self) -> CachedConfig:
        if not self.to_cached_dataset:
            why = "leave it out, or say true"
            raise PydanticCustomError("where", "{why}", {"path": "to_cached_dataset", "why": why})
        for name in ("streaming", "cached"):
            if getattr(self.data, name):
                why = "has no meaning where tokens are written"
                raise PydanticCustomError("where", "{why}", {"path": f"data.{name}", "why": why})
        return self


class CachedTextsConfig(CachedConfig):
    """swift export pt --to_cached_dataset true: the tokens of plain text."""

    data: TextsSection


class TraceConfig(Section):
    """swift trace: the rows that a step of a run learned from."""

    command: Literal["trace"] = "trace"

    run: Word
    """Folder of a run of swift sft or swift pt."""

    step: int = Field(ge=1)
    """The step, counted from 1 as in metrics.jsonl."""

    text: bool = False
    """Show how each row's text begins."""

    processes: int | None = Field(None, ge=1)
    """Processes of the run. Default: what its last checkpoint says, else 1."""


class InferConfig(Section):
    """swift infer: chat in the terminal, or answer a whole data set."""

    command: Literal["infer"] = "infer"
    model: UsedModelSection = UsedModelSection()
    infer: InferSection = InferSection()
    vllm: VllmSection = VllmSection()
    sglang: SglangSection = SglangSection()
    lmdeploy: LmdeploySection = LmdeploySection()
    data: DataSection = DataSection()

    load_data_args: bool = False
    """Answer the data that the adapter's run was evaluated on."""

    result_path: Word | None = None
    """File for the answers to a data set. Default: infer_result/<time>.jsonl beside the model.
    When it exists already, only the rows that are missing in it are answered."""

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without answering."""

    @model_validator(mode="after")
    def _check(self) -> InferConfig:
        if not self.model.path and not self.model.adapters:
            why = "is needed, or --adapters output/run/checkpoint-N"
            raise PydanticCustomError("where", "{why}", {"path": "model.path", "why": why})
        return self

    @model_validator(mode="after")
    def _check_server(self) -> InferConfig:
        remote, path, why = self.infer.backend == "http", "", ""
        running = self.infer.backend in ("sglang", "lmdeploy") and bool(self.infer.base_url)
        if remote and not self.infer.base_url:
            path, why = "infer.base_url", "is needed with --infer_backend http"
        elif (remote or running) and self.model.adapters:
            path, why = "model.adapters", "a server loads its own; name one with --model"
        elif remote and (self.model.thinking is not None or self.model.template_kwargs):
            path, why = "model.thinking", "a server of others has a template of its own"
        elif not (remote or running) and (self.infer.base_url or self.infer.api_key):
            path, why = "infer.base_url", "belongs to --infer_backend http, sglang or lmdeploy"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self


class DeployConfig(Section):
    """swift deploy: a service that speaks the protocols of OpenAI and Anthropic."""

    command: Literal["deploy"] = "deploy"
    model: UsedModelSection = UsedModelSection()
    infer: EngineSection = EngineSection()
    vllm: VllmSection = VllmSection()
    sglang: SglangSection = SglangSection()
    lmdeploy: LmdeploySection = LmdeploySection()
    serve: ServeSection = ServeSection()

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without serving."""

    @model_validator(mode="after")
    def _check(self) -> DeployConfig:
        if not self.model.path and not self.model.adapters:
            why = "is needed, or --adapters output/run/checkpoint-N"
            raise PydanticCustomError("where", "{why}", {"path": "model.path", "why": why})
        if bool(self.serve.ssl_keyfile) != bool(self.serve.ssl_certfile):
            path = "serve.ssl_certfile" if self.serve.ssl_keyfile else "serve.ssl_keyfile"
            why = "is needed too: HTTPS takes a key and a certificate"
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self


class VerifyConfig(Section):
    """swift verify: is a template learned as it will be used? No weights are loaded."""

    command: Literal["verify"] = "verify"
    model: UsedModelSection = UsedModelSection()
    data: TriedSection = TriedSection()

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Say what would be tried, without trying it."""

    @model_validator(mode="after")
    def _check(self) -> VerifyConfig:
        if not self.model.path and not self.model.adapters:
            why = "is needed, or --adapters output/run/checkpoint-N"
            raise PydanticCustomError("where", "{why}", {"path": "model.path", "why": why})
        return self


class MergeConfig(Section):
    """swift merge-lora, swift export --merge_lora true: adapter and base as one model."""

    command: Literal["export"] = "export"
    model: UsedModelSection = UsedModelSection()

    output: Word | None = None
    """Folder of the merged model. Default: <adapter>-merged."""

    shard_size: str = "5GB"
    """Largest file of weights."""

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without writing."""

    @model_validator(mode="after")
    def _check(self) -> MergeConfig:
        if not self.model.merge:
            why = "nothing to export: add --merge_lora true"
            raise PydanticCustomError("where", "{why}", {"path": "model.merge", "why": why})
        if not self.model.adapters:
            why = "is needed: --adapters output/run/checkpoint-N"
            raise PydanticCustomError("where", "{why}", {"path": "model.adapters", "why": why})
        return self
