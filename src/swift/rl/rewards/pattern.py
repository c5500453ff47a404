"""Does the answer have the form that was asked for: a pattern, a JSON schema?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from swift.config.reward import RewardSection
from swift.rl.rewards.answer import answer_in, column


def regex(
    completions: Sequence[str], settings: RewardSection, **columns: Any
) -> list[float | None]:
    """1 where the whole text matches ``reward.regex``, else 0."""
    assert settings.regex is not None
    pattern = re.compile(settings.regex, re.DOTALL)
    return [float(bool(pattern.fullmatch(text))) for text in completions]


def json_schema(
    completions: Sequence[str], settings: RewardSection, **columns: Any
) -> list[float | None]:
    """1 where the answer is JSON that its schema allows, else 0; None where there is no schema."""
    schemas = column(columns, "schema", len(completions))
    if settings.schema_file is not None:
        text = Path(settings.schema_file).read_text(encoding="utf-8")
        schemas = [json.loads(text)] * len(completions)
    return [_fits(text, schema) for text, schema in zip(completions, schemas, strict=True)]


def _fits(text: str, schema: Any) -> float | None:
    if schema is None:
        return None
    answer = answer_in(text).removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        jsonschema.validate(json.loads(answer), schema)
    except (ValueError, jsonschema.ValidationError):
        return 0.0
    return 1.0
