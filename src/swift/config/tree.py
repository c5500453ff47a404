"""What settings there are: walks a root class down to its leaves."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from swift import registry
from swift.config.section import Section, Variants


@dataclass(frozen=True)
class Leaf:
    """One setting."""

    path: str
    default: Any  # PydanticUndefined: required
    help: str
    type: str
    kinds: tuple[str, ...] = ()  # the kinds of its section that have it; empty: all

    @property
    def words(self) -> list[str]:
        """The words that it chooses from, where there is such a choice."""
        parts = self.type.split(" | ")
        return [part for part in parts if part not in _OPEN] if len(parts) > 1 else []


def section_at(root: type[Section], path: str) -> type[Section] | None:
    """The section class (for a choice: its base) at a top-level path, else None."""
    info = root.model_fields.get(path)
    if info is None:
        return None
    variants = _variants(info)
    if variants:
        return variants.base
    found = info.annotation
    return found if isinstance(found, type) and issubclass(found, Section) else None


def kinds_at(root: type[Section], path: str) -> Mapping[str, type[Section]]:
    """The section classes by kind where a path holds a choice, else nothing."""
    info = root.model_fields.get(path)
    variants = _variants(info) if info else None
    if not variants:
        return {}
    return {
        kind: entry.section
        for kind, entry in registry.entries(variants.base).items()
        if entry.section is not None
    }


def leaves(root: type[Section]) -> list[Leaf]:
    """Every setting of a root, in the order of the classes."""
    kinds = tuple(
        (name, tuple(kinds_at(root, name).items()))
        for name in root.model_fields
        if kinds_at(root, name)
    )
    return list(_leaves(root, kinds))


@cache
def _leaves(root: type[Section], kinds: tuple[Any, ...]) -> tuple[Leaf, ...]:
    choices = dict(kinds)
    found: list[Leaf] = []
    for name, info in root.model_fields.items():
        if name == "command":
            continue
        section = section_at(root, name)
        if name in choices:
            found += _choice(name, choices[name], _variants(info))
        elif section is not None:
            fields = sorted(
                section.model_fields.items(), key=lambda item: not item[1].is_required()
            )
            found += [_leaf(f"{name}.{key}", below) for key, below in fields]
        else:
            found.append(_leaf(name, info))
    return tuple(found)


def _choice(
    name: str, classes: tuple[tuple[str, type[Section]], ...], variants: Variants | None
) -> list[Leaf]:
    assert variants is not None
    help_text = (variants.base.__doc__ or "").strip()
    names = " | ".join(kind for kind, _ in classes)
    result = [Leaf(f"{name}.kind", variants.default, help_text, names)]
    merged: dict[str, tuple[FieldInfo, list[str]]] = {}
    for kind, section in classes:
        for key, info in section.model_fields.items():
            if key != "kind":
                merged.setdefault(key, (info, []))[1].append(kind)
    for key, (info, having) in merged.items():
        only = () if len(having) == len(classes) else tuple(having)
        result.append(_leaf(f"{name}.{key}", info, only))
    return result


def _leaf(path: str, info: FieldInfo, kinds: tuple[str, ...] = ()) -> Leaf:
    default = info.default
    if default is PydanticUndefined and info.default_factory is not None:
        default = info.get_default(call_default_factory=True)
    text = " ".join((info.description or "").split())
    return Leaf(path, default, text, describe(info.annotation), kinds)


def _variants(info: FieldInfo) -> Variants | None:
    return next((mark for mark in info.metadata if isinstance(mark, Variants)), None)


_PLAIN = {int: "whole number", float: "number", bool: "true | false", str: "text", type(None): ""}
_OPEN = ("whole number", "number", "text")  # types that no list of words exhausts


def describe(annotation: Any) -> str:
    """A type in a user's words."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        parts = [describe(part) for part in get_args(annotation) if part is not type(None)]
        return " | ".join(parts)
    if origin is list:
        return "one or more"
    if origin is dict:
        return "JSON mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return "value"
