"""Which rows, and what becomes of them on the way to tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Names, Section, Strings


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
    """Lay several samples end to end up to max_length; borders are kept."""

    learn: Literal["default", "last_round", "all"] = "default"
    """Which tokens are learned: every assistant turn, the last one, or every token."""

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


class ConversationsSection(DataSection):
    """Which conversations, and what becomes of them on the way to tokens."""

    train: Strings = Field(min_length=1)
    """Files (jsonl, json, csv, parquet, txt) or hub names to learn from; name#500 takes 500 rows
    at random."""


class TextsSection(ConversationsSection):
    """Which texts, and what becomes of them on the way to tokens."""

    learn: Literal["default", "last_round", "all"] = "all"
    """Which tokens are learned; of plain text every one."""

    overflow: Literal["drop", "cut-left", "cut-right", "split", "error"] = "split"
    """What happens to a longer text: split into several samples, cut, left out, or an error."""

    packing: bool = True
    """Lay several texts end to end up to max_length; borders are kept."""
