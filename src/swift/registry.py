"""Names that point up: a configuration says a ``kind``, the registry knows the code behind it.

A lower layer never imports a higher one. It registers a string such as
``"swift.tune.lora:attach"``; :func:`build` imports that module only when the part is used. Packages
outside register through the entry-point group ``swift.plugins``, a user's own file through
``--external_plugins my_file.py``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from swift.errors import ConfigError, MissingExtra

Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class Entry:
    """One registered part: where its code is, its section, what it needs beyond the core."""

    code: str
    section: type | None = None
    needs: str | None = None  # an importable module, such as "wandb"
    extra: str | None = None  # the extra of swift-llm that brings it


_ENTRIES: dict[str, dict[str, Entry]] = {}


def register(
    group: str, name: str, code: str, *, needs: str | None = None, extra: str | None = None
) -> None:
    """Register ``code`` ("module:attribute") as ``name`` of ``group`` ("format", "sink", ...)."""
    _ENTRIES.setdefault(group, {})[name] = Entry(code, None, needs, extra or needs)


def variant(
    base: type, kind: str, *, code: str, needs: str | None = None, extra: str | None = None
) -> Callable[[Class], Class]:
    """Register a section class as one ``kind`` of ``base``; ``code`` is called by :func:`build`."""

    def add(section: Class) -> Class:
        entry = Entry(code, section, needs, extra or needs)
        _ENTRIES.setdefault(base.__name__, {})[kind] = entry
        return section

    return add


def entries(group: str | type) -> Mapping[str, Entry]:
    """All registered parts of a group, in the order of their registration."""
    name = group if isinstance(group, str) else group.__name__
    return MappingProxyType(_ENTRIES.get(name, {}))


def load(group: str | type, name: str) -> Any:
    """The object behind a registered name.

    Raises:
        MissingExtra: the package that the part itself needs is absent.
        KeyError: nothing is registered under that name.
    """
    entry = entries(group)[name]
    module, _, attribute = entry.code.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if entry.needs and error.name and error.name.split(".")[0] == entry.needs:
            raise MissingExtra(entry.needs, entry.extra or entry.needs, f"{name!r}") from None
        raise


def build(section: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the code registered for ``section.kind`` with the section and the arguments."""
    for base in type(section).__mro__:
        if section.kind in entries(base):
            return load(base, section.kind)(section, *args, **kwargs)
    raise KeyError(f"{type(section).__name__} of kind {section.kind!r} is not registered")


def load_plugins(files: list[str]) -> None:
    """Import every installed plug-in and every file given by ``--external_plugins``.

    Raises:
        ConfigError: one of them does not exist or cannot be imported.
    """
    for point in entry_points(group="swift.plugins"):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(f"plug-in {point.name} ({point.value}): {error!r}") from error
    for file in files:
        _load_file(file)


def _load_file(file: str) -> None:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--external_plugins: {file} does not exist")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"swift_plugin_{path.stem}_{place}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--external_plugins: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"--external_plugins: {file} failed to import: {error!r}") from error
