"""``swift <command> --help``: every setting, by section, with its default and its flag."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic_core import PydanticUndefined

from swift.config.flags import aliases, spelling
from swift.config.section import Section
from swift.config.tree import Leaf, leaves, section_at
from swift.errors import ConfigError

_WIDTH = 96
_INDENT = 30


def render(
    root: type[Section], name: str, summary: str, sections: list[str], *, color: bool
) -> str:
    """The help page of a command.

    Args:
        root: its configuration.
        name: the command.
        summary: its one-line help.
        sections: names of sections to show; empty: all.
        color: use terminal colours.
    """
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves(root):
        groups.setdefault(leaf.path.partition(".")[0] if "." in leaf.path else "run", []).append(
            leaf
        )
    unknown = [section for section in sections if section not in groups]
    if unknown:
        raise ConfigError(f"there is no section {unknown[0]}; it has {', '.join(groups)}")
    lines = [] if sections else [f"swift {name}: {summary}", "", *_usage(name), ""]
    for group in sections or groups:
        section = section_at(root, group)
        about = " ".join((section.__doc__ or "").split()) if section else "The run as a whole."
        lines += [_paint(f"{group}: {about}", "1", color)]
        for leaf in groups[group]:
            lines += _entry(leaf, color)
        lines.append("")
    if not sections:
        lines.append(f"One section: swift {name} --help {next(iter(groups))}")
    return "\n".join(lines).rstrip()


def _usage(name: str) -> list[str]:
    return [
        f"usage: swift {name} [run.yaml ...] [--flag value ...]",
        "Flags win over YAML. A setting has a flat flag (--lora_rank 8) or its path in YAML",
        "(--tuner.rank 8); several values are separated by spaces; a bare flag means true.",
    ]


def _entry(leaf: Leaf, color: bool) -> list[str]:
    flag = spelling(leaf.path)
    other = aliases(leaf.path)
    parts = [
        f"<{leaf.type}>",
        leaf.help,
        f"(only {', '.join(leaf.kinds)})" if leaf.kinds else "",
        _default(leaf.default),
        f"Also {', '.join(other)}." if other else "",
        "" if flag == f"--{leaf.path}" else f"[{leaf.path}]",
    ]
    text = " ".join(part for part in parts if part)
    body = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
    head = f"  {flag}"
    if len(head) >= _INDENT - 1:
        return [_paint(head, "36", color), *(" " * _INDENT + line for line in body)]
    first = _paint(head, "36", color) + " " * (_INDENT - len(head)) + body[0]
    return [first, *(" " * _INDENT + line for line in body[1:])]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "Needed."
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return f"Default: {str(value).lower()}."
    if isinstance(value, list):
        return f"Default: {' '.join(map(str, value))}."
    return f"Default: {value}."


def _paint(text: str, code: str, color: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if color else text
