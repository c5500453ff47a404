"""Which rows, and what becomes of them on the way to tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from swift.config.learn import unknown
from swift.config.section import Names, Numbers, Section, Strings


class DataSection(Section):
    """Which rows, and what becomes of them on the way to tokens."""

    val: Strings = []
    """Files or hub names to evaluate on."""

    split: float = Field(0.0, ge=0, lt=1)
    """Share of the training samples set apart for evaluation when val is empty."""

    max_length: int | None = Field(None, ge=2)
    """Longest sample in tokens. Default: what the model was made for, at most 32768."""

    overflow: Literal["drop", "cut-left", "cut-right", "split", "error"] = "drop"
    """What happens to a longer sample: left out, cut, split into several, or an error. Counted in
    the ledger."""

    packing: bool = False
    """Lay several samples end to end up to packing_length; borders are kept."""

    packing_length: int | None = Field(None, ge=2)
    """Positions of a pack. Default: max_length."""

    packing_window: int | None = Field(None, ge=1)
    """Samples that are packed among themselves, in the order of the data. Default: all of them."""

    learn: str = "default"
    """Which tokens are learned: default (every assistant turn), last_round (the last one), all
    (every token); and parts of turns that count otherwise, as in last_round+ignore_empty_think:
    ignore_empty_think, ignore_think_prefix, hermes, react, alpha_umi, qwen, agentflan, or a
    strategy of your own."""

    system: str | None = None
    """System prompt for conversations that have none."""

    columns: Names = {}
    """Columns to rename before a row is understood: {"my_question": "query"}."""

    model_name: Strings = []
    """Replaces {{NAME}} in rows; two values: for rows in Chinese, for all others."""

    model_author: Strings = []
    """Replaces {{AUTHOR}} in rows; two values: for rows in Chinese, for all others."""

    shuffle: bool = True
    """Draw the samples in a new order in every epoch."""

    group_by_length: bool = False
    """Bring samples of like length into a step: less padding where a model needs padding, and
    processes that wait less for each other."""

    seed: int = Field(42, ge=0)
    """Seed of every random choice about data."""

    processes: int = Field(1, ge=1)
    """Processes that turn rows into tokens."""

    workers: int = Field(0, ge=0)
    """Processes that prepare batches ahead of the step. 0: the training process does it, which is
    quick, since tokens lie ready on disk."""

    cache: bool = True
    """Reuse tokens of an earlier run with the same rows, template and settings."""

    strict: bool = False
    """Stop at the first row that cannot be used, instead of counting it."""

    @field_validator("learn")
    @classmethod
    def _learnable(cls, value: str) -> str:
        if why := unknown(value):
            raise PydanticCustomError("where", "{why}", {"path": "data.learn", "why": why})
        return value


class ConversationsSection(DataSection):
    """Which conversations, and what becomes of them on the way to tokens."""

    cached: Strings = []
    """Folders of tokens that swift export --to_cached_dataset made, to learn from."""

    cached_val: Strings = []
    """The same, to evaluate on."""

    train: Strings = Field([], validate_default=True)
    """Files, folders, patterns (data/*.jsonl) or hub names to learn from; name#500 takes 500 rows
    at random, name:subset/split a part."""

    weights: Numbers = []
    """How often each of the data sets of train is drawn from, in proportion: one number each.
    Default: they follow each other, every sample once."""

    stopping: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"
    """With weights: an epoch ends when the first data set has given all its samples, or when all
    have; those that are short come back until then."""

    streaming: bool = False
    """Make tokens as the run goes and keep none: for data that is larger than the disk, or that a
    run sees only a part of. Samples are mixed and packed within windows of shuffle_buffer rows."""

    shuffle_buffer: int = Field(1000, ge=1)
    """With streaming: rows within which samples are drawn in a new order and packed."""

    @field_validator("train")
    @classmethod
    def _something(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if not value and not info.data.get("cached"):
            raise PydanticCustomError("missing", "no data")
        return value

    @model_validator(mode="after")
    def _streamable(self) -> ConversationsSection:
        for name, given, why in (
            ("split", self.split, "a stream has no end to take a share of; use --val_dataset"),
            ("packing_window", self.packing_window, "a stream packs within --shuffle_buffer_size"),
            ("cached", self.cached, "tokens that are made already need no --streaming"),
        ):
            if self.streaming and given:
                raise PydanticCustomError("where", "{why}", {"path": f"data.{name}", "why": why})
        return self

    @model_validator(mode="after")
    def _one_weight_each(self) -> ConversationsSection:
        why, count = "", len(self.train) + len(self.cached)
        if self.weights and len(self.weights) != count:
            why = (
                f"{len(self.weights)} given for {count} data sets; "
                "write one number for each --dataset"
            )
        elif any(weight <= 0 for weight in self.weights):
            why = "every number should be above 0; leave out a data set that is not drawn from"
        if why:
            raise PydanticCustomError("where", "{why}", {"path": "data.weights", "why": why})
        return self


class AnswersSection(ConversationsSection):
    """Which answers, and what becomes of them on the way to tokens."""

    learn: str = "last_round"
    """Which tokens are answers: last_round (behind the last user's turn), default (every assistant
    turn)."""

    overflow: Literal["drop", "cut-left", "cut-right", "error"] = "drop"
    """What happens to a row with a longer text: left out, cut (of a pair both texts), or an error.
    Counted in the ledger."""


class TextsSection(ConversationsSection):
    """Which texts, and what becomes of them on the way to tokens."""

    learn: str = "all"
    """Which tokens are learned; of plain text every one."""

    overflow: Literal["drop", "cut-left", "cut-right", "split", "error"] = "split"
    """What happens to a longer text: split into several samples, cut, left out, or an error."""

    packing: bool = True
    """Lay several texts end to end up to packing_length; borders are kept."""
