"""Command line and YAML -> one checked configuration, or all problems at once.

Precedence: defaults < YAML files, left to right < flags, left to right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from swift import registry
from swift.config import problems
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

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set one value; another ``kind`` than before makes its section start anew."""
        *parents, key = path.split(".")
        node = self.values
        for depth, parent in enumerate(parents):
            below = node.setdefault(parent, {})
            if isinstance(below, str) and section_at(self.root, ".".join(parents[: depth + 1])):
                below = node[parent] = {"kind": below}
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
    registry.load_plugins(_plugins(raw, flags))
    for file, (content, lines) in raw:
        _add_yaml(draft, command, file, content, lines)
    for name, values in flags:
        _add_flag(draft, command, name, values)
    _drop_foreign(draft)
    return _finish(draft, command), draft.notes


def from_values(root: type[Config], command: str, values: Mapping[str, Any]) -> Config:
    """The same from Python: flat names, dotted paths or whole sections, all by keyword."""
    draft = _Draft(root)
    plugins = values.get("external_plugins", [])
    registry.load_plugins([plugins] if isinstance(plugins, str) else list(plugins))
    for name, value in values.items():
        _add_value(draft, command, name, _plain(value), name)
    _drop_foreign(draft)
    return _finish(draft, command)


def _finish(draft: _Draft, command: str) -> Any:
    try:
        config = draft.root.model_validate(draft.values)
    except ValidationError as error:
        draft.problems += problems.explain(error, draft.root, draft.origins)
    if draft.problems:
        raise ConfigError(*dict.fromkeys(draft.problems))
    return config


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


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
        found += [named] if isinstance(named, str) else named
    return found + [file for name, values in flags if name == "external_plugins" for file in values]


def _add_flag(draft: _Draft, command: str, name: str, values: list[str]) -> None:
    value: Any = "true" if not values else values[0] if len(values) == 1 else values
    _add_value(draft, command, name, value, f"--{name}")


def _add_value(draft: _Draft, command: str, name: str, value: Any, origin: str) -> None:
    """Find the setting behind a name, or say why there is none."""
    flag = FLAGS.get(name)
    if flag:
        path = next((path for path in flag.paths if _exists(draft.root, path)), None)
        if path:
            draft.put(path, flag.rewrite(value), origin)
        else:
            draft.problems.append(f"{origin}: swift {command} has no such setting")
    elif _exists(draft.root, name):
        if isinstance(value, Mapping) and section_at(draft.root, name):
            for key, below in value.items():
                draft.put(f"{name}.{key}", below, f"{origin}.{key}")
        else:
            draft.put(name, value, origin)
    elif name in IDLE and _is_idle(name, value):
        draft.notes.append(f"{origin} {_shown(value)}: nothing to switch here: {IDLE[name].why}")
    elif name in LATER or name in IDLE:
        topic = f" ({LATER[name]})" if LATER.get(name) else ""
        shown = f" {_shown(value)}" if name in IDLE else ""
        draft.problems.append(f"{origin}{shown}: known from ms-swift, not supported yet{topic}")
    else:
        hint = problems.suggest(name, _names(draft.root), "--" if origin.startswith("--") else "")
        draft.problems.append(f"{origin}: swift {command} has no such setting{hint}")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_idle(name: str, value: Any) -> bool:
    allowed = IDLE[name].values
    return allowed is None or str(value).lower() in allowed


def _names(root: type[Section]) -> list[str]:
    paths = [leaf.path for leaf in leaves(root)]
    flat = [name for name, flag in FLAGS.items() if any(_exists(root, path) for path in flag.paths)]
    return flat + paths


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


def _load_yaml(draft: _Draft, file: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML (or JSON) file as a mapping, and the line of every key."""
    path = Path(file)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        hint = "flags start with --" if not path.exists() else "a configuration ends in .yaml"
        draft.problems.append(f"{file}: not a configuration file; {hint}")
        return {}, {}
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        draft.problems.append(f"{file}: {error.strerror or error}")
        return {}, {}
    except UnicodeDecodeError:
        draft.problems.append(f"{file}: not UTF-8 text")
        return {}, {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        draft.problems.append(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}")
        return {}, {}
    if not isinstance(content, dict):
        draft.problems.append(f"{file}: needs settings such as `model: {{path: ...}}`")
        return {}, {}
    lines: dict[str, int] = {}
    _mark(draft, file, node, "", lines)
    return content, lines


def _mark(
    draft: _Draft, file: str, node: yaml.Node | None, prefix: str, lines: dict[str, int]
) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if path in lines:
            draft.problems.append(f"{file}:{line}: {path} was set in line {lines[path]} already")
        lines[path] = line
        _mark(draft, file, value, f"{path}.", lines)


def _add_yaml(
    draft: _Draft, command: str, file: str, content: dict[str, Any], lines: dict[str, int]
) -> None:
    for name, value in content.items():
        name = str(name).replace("-", "_")
        if isinstance(value, dict) and section_at(draft.root, name):
            for key, below in value.items():
                path = f"{name}.{key}"
                draft.put(path, below, f"{file}:{lines.get(path, 0)}")
        elif name == "ENV":
            draft.problems.append(f"{file}: ENV is not read; set variables before the command")
        else:
            _add_value(draft, command, name, value, f"{file}:{lines.get(name, 0)}: {name}")
