"""Rows that a template is tried on."""

from __future__ import annotations

from pydantic import Field

from swift.config.section import Names, Section, Strings


class TriedSection(Section):
    """Rows that a template is tried on, beside the conversations that are built in."""

    train: Strings = []
    """Files, folders, patterns (data/*.jsonl) or hub names; name#500 takes 500 rows at random."""

    system: str | None = None
    """System prompt for conversations that have none."""

    columns: Names = {}
    """Columns to rename before a row is understood: {"my_question": "query"}."""

    model_name: Strings = []
    """Replaces {{NAME}} in rows; two values: for rows in Chinese, for all others."""

    model_author: Strings = []
    """Replaces {{AUTHOR}} in rows; two values: for rows in Chinese, for all others."""

    seed: int = Field(42, ge=0)
    """Seed of the choice of rows."""
