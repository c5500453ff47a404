"""What a flat flag is, and how its value is rewritten for its setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A flat flag: the path of its setting (the first that the command has), and how its value is
    rewritten for it.
    """

    paths: tuple[str, ...]
    rewrite: Callable[[Any], Any]
    alias: bool = False  # another spelling; help shows the first one


@dataclass(frozen=True)
class Several:
    """What a word stands for that says more than one setting: dotted paths and their values."""

    settings: Mapping[str, Any]


def _keep(value: Any) -> Any:
    return value


def flag(*paths: str, rewrite: Callable[[Any], Any] = _keep) -> Flag:
    """The flag that help shows for a setting."""
    return Flag(paths, rewrite)


def alias(path: str, rewrite: Callable[[Any], Any] = _keep) -> Flag:
    """Another spelling of one."""
    return Flag((path,), rewrite, alias=True)


def words(**words: Any) -> Callable[[Any], Any]:
    """Rewrite some words of another vocabulary, leave every other value to the setting."""
    return lambda value: words.get(str(value).lower(), value) if not _many(value) else value


def _many(value: Any) -> bool:
    return isinstance(value, list | dict)
