"""``swift datasets [words]``: public data sets that have a short name."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from swift.errors import ConfigError
from swift.hub.catalog import Entry, catalog

_WIDTH = 140  # of a table that goes to a file or a pipe


def run(words: list[str]) -> int:
    """Print the data sets that have all words in them.

    Raises:
        ConfigError: there are none.
    """
    found = search(words)
    console = Console(
        file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _WIDTH
    )
    console.print(_table(found))
    console.print(
        f"{len(found)} of {len(catalog())} data sets; "
        f"--dataset {found[0].name}#500 takes 500 rows of the first"
    )
    return 0


def search(words: list[str]) -> list[Entry]:
    """The entries that have all words in them.

    Raises:
        ConfigError: there are none; says what comes near.
    """
    found = list(catalog().values())
    for word in words:
        fitting = [entry for entry in found if word.lower() in _text(entry)]
        if not fitting:
            raise ConfigError(_none(words, word))
        found = fitting
    return found


def _text(entry: Entry) -> str:
    said = (entry.name, entry.task, entry.form, *entry.ids.values(), *entry.topics)
    return " ".join((*said, *entry.languages)).lower()


def _none(words: list[str], word: str) -> str:
    import difflib

    entries = catalog().values()
    if any(word.lower() in _text(entry) for entry in entries):
        return f"no data set has all of {' '.join(words)}; leave one out"
    known = dict.fromkeys(part for entry in entries for part in _words(entry))
    close = difflib.get_close_matches(word.lower(), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "swift datasets lists all"
    return f"no data set has {word!r}; {hint}"


def _words(entry: Entry) -> Iterable[str]:
    return (entry.name, entry.task, *entry.topics, *entry.languages)


def _table(entries: list[Entry]) -> Table:
    made = Table(box=None, pad_edge=False)
    made.add_column("name", overflow="fold")
    made.add_column("for", overflow="fold")
    made.add_column("form", overflow="fold")
    made.add_column("ids; subsets; columns renamed", overflow="fold")
    for entry in entries:
        lines = [f"{short}::{entry.ids[hub]}" for short, hub in _SHORT.items() if hub in entry.ids]
        lines += [f":{' :'.join(entry.subsets)}"] if entry.subsets else []
        lines += [f"{old} -> {new}" for old, new in entry.columns.items()]
        use = " ".join((entry.task, *entry.topics, *entry.languages))
        made.add_row(entry.name, use, entry.form, "\n".join(lines))
    return made


_SHORT = {"hf": "huggingface", "ms": "modelscope"}
