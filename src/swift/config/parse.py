"""Command line and YAML -> one checked configuration, or all problems at once.

Precedence: defaults < YAML files, left to right < flags, left to right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from swift import registry
from swift.config import problems
from swift.config.flag import Several
from swift.config.flags import FLAGS, IDLE
from swift.config.later import LATER
from swift.config.section import Section
from swift.config.tree import kinds_at, leaves, section_at
from swift.errors import ConfigError

Config = TypeVar("Config", bound=Section)


@dataclass
class _Draft:
    """Values as they come in, with where each was said."""

    root: type[Section]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # dotted path -> "--flag" or "run.yaml:3"
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True  # False: a file could not be read, so nobody knows what it says

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set one value; another ``kind`` than before makes its section start anew."""
        *parents, key = path.split(".")
        node = self.values
        for depth, parent in enumerate(parents):
            below = node.setdefault(parent, {})
            if not isinstance(below, dict):
                where = ".".join(parents[: depth + 1])
                self.problems.append(f"{origin}: {where} holds {below!r}, so {path} has no place")
                return
            node = below
        if key == "kind" and node.get("kind", value) != value:
            known = kinds_at(self.root, ".".join(parents)).get(str(value))
            for name in [name for name in node if known is None or name not in known.model_fields]:
                del node[name]
        node[key] = value
        self.origins[path] = origin


def read(root: type[Config], command: str, argv: list[str]) -> tuple[Config, list[str]]:
    """Read YAML files and flags into a configuration of type ``root``.

    Returns:
        The configuration and notes for the user (flags that have nothing to switch).

    Raises:
        ConfigError: with every problem found, not just the first.
    """
    files, flags = _split(argv)
    draft = _Draft(root)
    raw = [(file, _load_yaml(draft, file)) for file in files]
    _load_plugins(draft, _plugins(raw, flags))
    for file, (content, lines) in raw:
        _add_yaml(draft, command, file, content, lines)
    for name, values in sorted(flags, key=lambda flag: not _is_kind(root, flag[0])):
        _add_flag(draft, command, name, values)
    _drop_foreign(draft)
    return _finish(draft), draft.notes


def from_values(root: type[Config], command: str, values: Mapping[str, Any]) -> Config:
    """The same from Python: flat names, dotted paths or whole sections, all by keyword."""
    draft = _Draft(root)
    _load_plugins(draft, _plugins([("", (values, {}))], []))
    for name, value in sorted(values.items(), key=lambda item: not _is_kind(root, item[0])):
        _add_value(draft, command, name, _plain(value), name)
    _drop_foreign(draft)
    return _finish(draft)


def _finish(draft: _Draft) -> Any:
    config = None
    try:
        if draft.complete:
            config = draft.root.model_validate(draft.values)
    except ValidationError as error:
        draft.problems += problems.explain(error, draft.root, draft.origins)
    if draft.problems:
        raise ConfigError(*dict.fromkeys(draft.problems))
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(one) for name, one in value}  # with what no dump may hold, too
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _split(argv: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Leading files, and flags with the words that follow each."""
    files: list[str] = []
    flags: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            flags.append((name.replace("-", "_"), [value] if equals else []))
        elif flags:
            flags[-1][1].append(word)
        else:
            files.append(word)
    for name, values in flags:
        if name == "config":
            files += values
    return files, [(name, values) for name, values in flags if name != "config"]


def _plugins(raw: Iterable[tuple[str, Any]], flags: list[tuple[str, list[str]]]) -> list[str]:
    found: list[str] = []
    for _, (content, _) in raw:
        named = content.get("external_plugins", [])
        found += map(str, named if isinstance(named, list | tuple) else [named])
    return found + [file for name, values in flags if name == "external_plugins" for file in values]


def _is_kind(root: type[Section], name: str) -> bool:
    """Whether a name chooses the kind of a section; that is read before what belongs to a kind."""
    paths = FLAGS[name].paths if name in FLAGS else (name,)
    return any(path.endswith(".kind") or kinds_at(root, path) for path in paths)


def _load_plugins(draft: _Draft, files: list[str]) -> None:
    try:
        registry.load_plugins(files)
    except ConfigError as error:
        draft.problems += error.problems


def _add_flag(draft: _Draft, command: str, name: str, values: list[str]) -> None:
    value: Any = "true" if not values else values[0] if len(values) == 1 else values
    path = _path_of(draft.root, name)
    if not values and path and not _may_be_bare(draft.root, name, path):
        draft.problems.append(f"--{name}: needs a value")
        return
    _add_value(draft, command, name, value, f"--{name}")


def _path_of(root: type[Section], name: str) -> str | None:
    """The setting behind a flat flag or a dotted path, where this root has it."""
    paths = FLAGS[name].paths if name in FLAGS else (name,)
    return next((path for path in paths if _exists(root, path)), None)


def _may_be_bare(root: type[Section], name: str, path: str) -> bool:
    """Whether ``true`` means something to a flag: to its setting, or once rewritten."""
    if name in FLAGS and FLAGS[name].rewrite("true") not in ("true", True):
        return True
    return any(leaf.path == path and "true" in leaf.words for leaf in leaves(root))


def _add_value(draft: _Draft, command: str, name: str, value: Any, origin: str) -> None:
    """Find the setting behind a name, or say why there is none."""
    path = _path_of(draft.root, name)
    if path:
        _put(draft, path, FLAGS[name].rewrite(value) if name in FLAGS else value, origin)
    elif name in IDLE and _is_idle(name, value):
        draft.notes.append(f"{origin} {_shown(value)}: nothing to switch here: {IDLE[name].why}")
    elif name in FLAGS:
        draft.problems.append(f"{origin}: swift {command} has no such setting")
    elif name in LATER or name in IDLE:
        topic = LATER.get(name) or (IDLE[name].why if name in IDLE else "")
        topic = f" ({topic})" if topic else ""
        shown = f" {_shown(value)}" if name in IDLE else ""
        draft.problems.append(f"{origin}{shown}: known from ms-swift, not supported yet{topic}")
    else:
        hint = problems.suggest(name, _names(draft.root), "--" if origin.startswith("--") else "")
        draft.problems.append(f"{origin}: swift {command} has no such setting{hint}")


def _put(draft: _Draft, path: str, value: Any, origin: str) -> None:
    """Set a setting, or all that a whole section (or its kind alone) stands for."""
    if isinstance(value, Several):
        for key, part in value.settings.items():
            draft.put(key, part, origin)
    elif isinstance(value, Mapping) and section_at(draft.root, path):
        for key, below in value.items():
            draft.put(f"{path}.{key}", below, f"{origin}.{key}")
    elif isinstance(value, str) and kinds_at(draft.root, path):
        draft.put(f"{path}.kind", value, origin)
    else:
        draft.put(path, value, origin)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_idle(name: str, value: Any) -> bool:
    allowed = IDLE[name].values
    return allowed is None or str(value).lower() in allowed


def _names(root: type[Section]) -> list[str]:
    paths = [leaf.path for leaf in leaves(root)]
    flat = [name for name, flag in FLAGS.items() if any(_exists(root, path) for path in flag.paths)]
    return [*flat, *paths, *(name for name in root.model_fields if section_at(root, name))]


def _exists(root: type[Section], path: str) -> bool:
    if section_at(root, path):
        return True
    return any(leaf.path == path for leaf in leaves(root))


def _drop_foreign(draft: _Draft) -> None:
    """A flat flag of another kind (--lora_rank with --tuner_type full) is noted, not an error."""
    for path, origin in list(draft.origins.items()):
        parent, _, key = path.rpartition(".")
        kinds = kinds_at(draft.root, parent)
        node = draft.values.get(parent)
        if not kinds or key == "kind" or not isinstance(node, dict) or not origin.startswith("--"):
            continue
        default = next(leaf for leaf in leaves(draft.root) if leaf.path == f"{parent}.kind").default
        kind = node.get("kind", default)
        if kind in kinds and key not in kinds[kind].model_fields and key in node:
            del node[key]
            draft.notes.append(f"{origin}: not used with {parent}.kind {kind}")


class _Loader(yaml.SafeLoader):
    """YAML with the booleans of YAML 1.2: ``no`` and ``on`` are words, as in ``save: no``."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def _load_yaml(draft: _Draft, file: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML (or JSON) file as a mapping, and the line of every key."""
    try:
        content, node = _parse_yaml(file)
    except ConfigError as error:
        draft.problems += error.problems
        draft.complete = False
        return {}, {}
    lines: dict[str, int] = {}
    _mark(draft, file, node, "", lines)
    return content, lines


def _parse_yaml(file: str) -> tuple[dict[str, Any], yaml.Node]:
    path = Path(file)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        hint = "flags start with --" if not path.exists() else "a configuration ends in .yaml"
        raise ConfigError(f"{file}: not a configuration file; {hint}")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = loader.construct_document(node) if node else None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(f"{file}{line}: not YAML: {why}") from None
    except RecursionError:
        raise ConfigError(f"{file}: not YAML: nested too deeply") from None
    if not isinstance(content, dict) or node is None:
        raise ConfigError(f"{file}: needs settings such as `model: {{path: ...}}`")
    return content, node


def _mark(
    draft: _Draft, file: str, node: yaml.Node | None, prefix: str, lines: dict[str, int]
) -> None:
    """Note the line of every key; settings lie at most three deep (data.columns.question)."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if path in lines:
            draft.problems.append(f"{file}:{line}: {path} was set in line {lines[path]} already")
        lines[path] = line
        if path.count(".") < 2:
            _mark(draft, file, value, f"{path}.", lines)


def _add_yaml(
    draft: _Draft, command: str, file: str, content: dict[str, Any], lines: dict[str, int]
) -> None:
    own = draft.root.model_fields["command"].default if "command" in draft.root.model_fields else ""
    for key, value in sorted(
        content.items(), key=lambda item: not _is_kind(draft.root, _name(item[0]))
    ):
        name, where = _name(key), f"{file}:{lines.get(str(key), 0)}"
        if isinstance(value, dict) and section_at(draft.root, name):
            for below in value:
                line = lines.get(f"{key}.{below}", lines.get(str(key), 0))
                draft.put(f"{name}.{below}", value[below], f"{file}:{line}")
        elif name == "command":
            if value != own:
                draft.problems.append(f"{where}: this is a configuration of swift {value}")
        elif name == "ENV":
            draft.problems.append(f"{where}: ENV is not read; set variables before the command")
        else:
            _add_value(draft, command, name, value, f"{where}: {name}")


def _name(key: Any) -> str:
    return str(key).replace("-", "_")
