"""pydantic's errors in a user's words: where it was written, what was got, what to write."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from swift.config.flags import spelling
from swift.config.later import LATER_VALUES
from swift.config.section import Section
from swift.config.tree import kinds_at, leaves

_WORDS = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "int_type": "is not a whole number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "string_type": "is not text",
    "string_too_short": "is empty",
    "list_type": "is not a list",
    "dict_type": "is not a mapping",
    "model_type": "is not a section; write its settings below it",
}
_NEEDED = {
    "model.path": ": a hub name, a folder, a .gguf file or package:<name>",
    "data.train": ": files such as chats.jsonl, or hub names",
}
_BOUNDS = {
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "less_than": "is not below {lt}",
    "less_than_equal": "is above {le}",
}


def explain(error: ValidationError, root: type[Section], origins: Mapping[str, str]) -> list[str]:
    """One line for every problem pydantic found."""
    lines = []
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        path = _path(detail, root)
        if path in seen:  # a union reports each of its members
            continue
        seen.add(path)
        lines.append(f"{_where(path, origins)}: {_what(detail, path, root)}")
    return lines


def _path(detail: ErrorDetails, root: type[Section]) -> str:
    stated = detail.get("ctx", {}).get("path")
    if stated:
        return str(stated)
    known = {leaf.path for leaf in leaves(root)}
    parts = [str(part) for part in detail["loc"]]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    if detail["type"] == "missing" and len(parts) == 1:  # a whole section: name what it must say
        return next((path for path in _NEEDED if path.startswith(parts[0] + ".")), parts[0])
    if detail["type"] == "variant_kind":
        parts.append("kind")
    return ".".join(parts)


def _where(path: str, origins: Mapping[str, str]) -> str:
    origin = origins.get(path)
    if origin is None:
        below = [value for key, value in origins.items() if path.startswith(f"{key}.")]
        origin = below[0] if below else None
    if origin is None:
        return spelling(path)
    return (
        origin if origin.startswith("--") or path.split(".")[-1] in origin else f"{origin}: {path}"
    )


def _what(detail: ErrorDetails, path: str, root: type[Section]) -> str:
    kind, context, got = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "where":
        return str(context["why"])
    if kind == "missing":
        return f"is needed{_NEEDED.get(path, '')}"
    if kind == "extra_forbidden":
        return f"there is no such setting{_instead(path, root)}"
    if kind in ("literal_error", "variant_kind"):
        expected = str(context["expected"])
        words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
        if kind == "variant_kind":
            got = str(context["kind"]).strip("'")
        if str(got) in LATER_VALUES.get(path, ()):
            return f"{got!r} is known from ms-swift, not supported yet; now: {', '.join(words)}"
        return f"{got!r} is not one of {', '.join(words)}{suggest(str(got), words)}"
    if kind == "too_short":
        return f"is empty; it needs at least one value{_NEEDED.get(path, '')}"
    if kind in _BOUNDS:
        return f"{got} {_BOUNDS[kind].format(**context)}"
    if kind in _WORDS:
        return f"{_shown(got)} {_WORDS[kind]}"
    return f"{_shown(got)}: {detail['msg']}"


def _shown(got: Any) -> str:
    if isinstance(got, list):
        return f"several values ({' '.join(map(str, got[:4]))})"
    return repr(got)


def _instead(path: str, root: type[Section]) -> str:
    parent, _, key = path.rpartition(".")
    kinds = kinds_at(root, parent)
    having = [kind for kind, section in kinds.items() if key in section.model_fields]
    if having:
        return f" with this kind; it belongs to {parent}.kind {' or '.join(having)}"
    return suggest(path, [leaf.path for leaf in leaves(root)])


def suggest(word: str, words: Iterable[str], prefix: str = "") -> str:
    """'; did you mean X?' for the most similar word, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
