"""The base of every section (inert, frozen, strict about names), and the field types they share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from swift import registry


class Section(BaseModel):
    """A group of settings. The string under each field is its help text."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
        defer_build=True,
        allow_inf_nan=False,
    )


class Variants:
    """Marks a field that holds one of the registered kinds of ``base``.

    The kinds are looked up when a value is checked, not when the class is made, so that a plug-in
    can add one. A bare string is short for ``{kind: <string>}``.
    """

    def __init__(self, base: type[Section], default: str) -> None:
        self.base = base
        self.default = default

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.check,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda section: section.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        sections = [entry.section for entry in registry.entries(self.base).values()]
        return {"anyOf": [s.model_json_schema() for s in sections if s and issubclass(s, Section)]}

    def check(self, value: Any) -> Section:
        """Turn a mapping (or a finished section) into the section of its kind."""
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError("variant_type", "needs a mapping with a `kind`")
        kind = value.get("kind", self.default)
        known = registry.entries(self.base)
        if kind not in known:
            raise PydanticCustomError(
                "variant_kind",
                "no kind {kind}",
                {"kind": repr(kind), "expected": ", ".join(known), "field": "kind"},
            )
        section = known[kind].section
        assert section is not None and issubclass(section, Section)
        return section.model_validate({**value, "kind": kind})


def as_list(value: Any) -> Any:
    """A single value is a list of one."""
    return [value] if isinstance(value, str | int | float) else value


def _as_mapping(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise PydanticCustomError("json", "not valid JSON: {why}", {"why": str(error)}) from None


def _as_shares(value: Any) -> Any:
    words = [value] if isinstance(value, str) and not value.lstrip().startswith("{") else value
    if not isinstance(words, list):
        return _as_mapping(words)
    pairs = [str(word).partition("=") for word in words]
    if not all(name and number for name, _, number in pairs):
        raise PydanticCustomError("shares", "write a share as name=number, as in image=0.3")
    return {name: number for name, _, number in pairs}


Word = Annotated[str, Field(min_length=1)]
"""A text that says something: an unset variable of a shell script leaves an empty one."""

Strings = Annotated[list[Word], BeforeValidator(as_list)]
"""A list of strings; a single string is a list of one."""

Numbers = Annotated[list[float], BeforeValidator(as_list)]
"""A list of numbers; a single number is a list of one."""

Names = Annotated[dict[str, str], BeforeValidator(_as_mapping)]
"""A mapping of strings; on the command line written as JSON."""

Counts = Annotated[dict[str, int], BeforeValidator(_as_mapping)]
"""Numbers by name; on the command line written as JSON."""

Options = Annotated[dict[str, Any], BeforeValidator(_as_mapping)]
"""A mapping with any values; on the command line written as JSON."""

Shares = Annotated[dict[str, float], BeforeValidator(_as_shares)]
"""Numbers by name; on the command line ``image=0.3 text=0.7``, or JSON."""
