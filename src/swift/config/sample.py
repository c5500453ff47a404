"""Answers that are drawn, judged, and kept as rows to learn from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.data import DataSection
from swift.config.engine import LmdeploySection, SglangSection, VllmSection
from swift.config.infer import InferSection
from swift.config.model import UsedModelSection
from swift.config.reward import RewardSection
from swift.config.section import Section, Strings, Word


class DrawSection(InferSection):
    """How answers are drawn, here or by a server that is there."""

    temperature: float = Field(1.0, ge=0)
    """Randomness of the choice of a token; 0: always the most likely one."""


class QueriesSection(DataSection):
    """Which rows are answered."""

    train: Strings
    """Files, folders, patterns (data/*.jsonl) or hub names; name#500 takes 500 rows at random."""


class SampleSection(Section):
    """How many answers are drawn, and which are kept."""

    sampler_type: Literal["sample", "distill"] = "sample"
    """sample: a model answers; distill: the same, a teacher behind HTTP (infer.backend http)."""

    ask: bool = True
    """Draw answers; false: judge those that cache_files hold, and load no model."""

    num_return_sequences: int = Field(64, ge=1)
    """Answers to each query."""

    n_best_to_keep: int = Field(5, ge=1)
    """Most answers of a query that are kept, the best ones; without anything that judges: all."""

    orm_model: Word | None = None
    """What judges an answer by its outcome: a function as of reward.funcs, or a reward model."""

    prm_model: Word | None = None
    """What judges the way to it: a process reward model (rlhf_type prm), of whose steps the worst
    counts, or any other as of orm_model."""

    prm_threshold: float = 0.0
    """Answers that prm_model finds no better than this are not kept."""

    easy_query_threshold: float | None = Field(None, gt=0, le=1)
    """Queries of which this share of the answers, or more, is right are left out as too easy."""

    num_sampling_batch_size: int = Field(1, ge=1)
    """Queries that are asked at once, with all their answers."""

    num_sampling_batches: int | None = Field(None, ge=1)
    """Most of these batches. Default: all."""

    data_range: list[int] = []
    """Which part of the queries: 1 3 is the second of three (counted from 0)."""

    concurrency: int = Field(32, ge=1)
    """Questions under way at a server (infer.backend http)."""

    cache_files: Strings = []
    """Rows that were written before, with the answers that they hold: these are not asked again."""

    output_file: Word | None = None
    """Name of the file in the output folder, .jsonl. Default: the time."""

    resume: bool = False
    """Go on with output_file: what its journal holds is not asked again."""

    override_exist_file: bool = False
    """Begin anew where output_file is there already."""


class SampleConfig(Section):
    """swift sample: draw answers, judge them, write the best as rows to learn from."""

    command: Literal["sample"] = "sample"
    model: UsedModelSection = UsedModelSection()
    data: QueriesSection
    infer: DrawSection = DrawSection()
    sample: SampleSection = SampleSection()
    reward: RewardSection = RewardSection()
    vllm: VllmSection = VllmSection()
    sglang: SglangSection = SglangSection()
    lmdeploy: LmdeploySection = LmdeploySection()

    output: Word = "sample_output"
    """Folder of the rows."""

    external_plugins: Strings = []
    """Python files that register parts of your own."""

    dry_run: bool = False
    """Check everything and say what would happen, without asking."""

    @model_validator(mode="after")
    def _check_source(self) -> SampleConfig:
        path, why, remote = "", "", self.infer.backend == "http"
        if self.sample.ask and not self.model.path and not self.model.adapters:
            path, why = "model.path", "is needed, or --adapters output/run/checkpoint-N"
        elif not self.sample.ask and not self.sample.cache_files:
            path, why = "sample.cache_files", "is needed where nobody is asked"
        elif self.sample.sampler_type == "distill" and not remote:
            path, why = "infer.backend", "a teacher is a server: --sampler_engine client"
        elif remote and not self.infer.base_url:
            path, why = "infer.base_url", "is needed with --sampler_engine client"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self

    @model_validator(mode="after")
    def _check_output(self) -> SampleConfig:
        path, why, sample = "", "", self.sample
        name = sample.output_file
        if sample.resume and name is None:
            path, why = "sample.output_file", "is needed with --resume"
        elif name is not None and (any(x in name for x in "/\\") or not name.endswith(".jsonl")):
            path, why = "sample.output_file", "is a name such as rows.jsonl; see --output_dir"
        elif sample.data_range and not _is_part(sample.data_range):
            path, why = "sample.data_range", "is a part and how many there are, as in 1 3"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": path, "why": why})
        return self


def _is_part(values: list[int]) -> bool:
    return len(values) == 2 and 0 <= values[0] < values[1]
