"""Public data sets under short names: their ids on each hub, their columns, what they are for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from swift.errors import ConfigError

TABLE = "data/datasets.toml"


@dataclass(frozen=True)
class Entry:
    """A public data set."""

    name: str
    task: str
    form: str
    topics: tuple[str, ...]
    huggingface: str | None = None
    modelscope: str | None = None
    languages: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()  # the first is read unless another is named
    columns: Mapping[str, str] = field(default_factory=dict)  # to rename

    @property
    def ids(self) -> dict[str, str]:
        """Hub -> its id there."""
        both = {"huggingface": self.huggingface, "modelscope": self.modelscope}
        return {hub: name for hub, name in both.items() if name}

    def on(self, hub: str) -> tuple[str, str]:
        """The hub that it comes from, and its id there.

        Args:
            hub: ``auto`` (Hugging Face where it is there), ``huggingface`` or ``modelscope``.

        Raises:
            ConfigError: it is not on that hub.
        """
        if hub == "auto":
            return next(iter(self.ids.items()))
        if hub in self.ids:
            return hub, self.ids[hub]
        other, name = next(iter(self.ids.items()))
        title, switch = _HUBS[other]
        raise ConfigError(f"--dataset: {self.name} is on {title} only ({name}); add {switch}")


_HUBS = {
    "huggingface": ("Hugging Face", "--use_hf true"),
    "modelscope": ("ModelScope", "--use_hf false"),
}


@cache
def catalog() -> dict[str, Entry]:
    """All entries by their name."""
    table = tomllib.loads((files("swift") / TABLE).read_text(encoding="utf-8"))
    return {name: Entry(name, **_frozen(settings)) for name, settings in table.items()}


def _frozen(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


@cache
def _by_name() -> dict[str, Entry]:
    return {_plain(name): entry for name, entry in catalog().items()}


def _plain(name: str) -> str:
    """``coco_vqa`` is ``coco-vqa``."""
    return name.replace("_", "-")


@cache
def _by_id() -> dict[str, Entry]:
    return {name: entry for entry in catalog().values() for name in entry.ids.values()}


def entry_of(name: str) -> Entry | None:
    """The entry with that name or that id on a hub, perhaps behind ``hf::`` or ``ms::``."""
    name = name.rpartition("::")[2]
    return _by_name().get(_plain(name)) or _by_id().get(name)


def close_to(name: str) -> list[str]:
    """Names of entries that look like it."""
    import difflib

    return difflib.get_close_matches(name, catalog(), n=3)
