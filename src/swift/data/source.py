"""Files and hub names -> rows, in blocks, each row with the place it came from.

A row travels as the bytes of its JSON, so that it can be hashed and sent to another process
without being understood here. Files are read as a stream: memory does not grow with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from swift.data.names import Name, choose, files_of, matching, parse
from swift.data.readers import by_line, dump, records
from swift.errors import ConfigError
from swift.hub.catalog import Entry, entry_of
from swift.hub.locate import find_adapter, find_dataset, find_model

BLOCK = 2048
"""Rows in one block: small enough to spread over processes, large enough to be worth a file."""

Locate = Callable[[str, Callable[[list[str]], Sequence[str]]], Path]
"""A name on a hub, and which of the files there are wanted -> the local folder."""

_BLOCK_BYTES = 16 << 20  # a block of long rows ends when it has this many bytes


@dataclass(frozen=True)
class Source:
    """One data file, and what it is a part of."""

    path: Path
    name: str
    take: int | None = None  # rows of the whole data set that are taken; None: all
    dataset: int = 0  # the place of the data set among those that are named
    columns: tuple[tuple[str, str], ...] = ()  # to rename, as the catalog says

    def place(self, line: int) -> str:
        """How a person finds a row: ``chats.jsonl:17``, ``table.parquet row 17``."""
        return f"{self.name}:{line}" if by_line(self.path) else f"{self.name} row {line}"


@dataclass(frozen=True)
class Block:
    """Rows that follow each other: JSON bytes and line numbers (counted from 1)."""

    source: Source
    lines: list[int]
    rows: list[bytes]


def check_inputs(
    models: Iterable[str], adapters: Iterable[str], data: Mapping[str, Iterable[str]]
) -> None:
    """See that what should be on this machine is there, before anything is fetched or loaded.

    Args:
        models: names of models.
        adapters: folders of adapters.
        data: flag -> names of data sets, each perhaps with ``:subset/split`` and ``#rows``.

    Raises:
        ConfigError: everything that is not there, at once.
    """
    problems: list[str] = []

    def look(find: Callable[[str], object], name: str, flag: str) -> None:
        try:
            find(name)
        except ConfigError as error:
            problems.extend(line.replace("--dataset:", f"{flag}:", 1) for line in error.problems)

    for name in models:
        look(find_model, name, "--model")
    for name in adapters:
        look(find_adapter, name, "--adapters")
    for flag, names in data.items():
        for name in names:
            look(_find, name, flag)
    if problems:
        raise ConfigError(*problems)


def _find(name: str) -> None:
    bare = parse(name)
    if bare.is_pattern:
        matching(bare)
        return
    path = find_dataset(bare.path)
    if path is not None and (bare.parts or path.is_file()):
        files_of(bare, path)


def open_sources(names: list[str], locate: Locate, *, flag: str = "--dataset") -> list[Source]:
    """The files behind the names of a configuration.

    Args:
        names: paths, patterns or hub names, each perhaps with ``:subset/split`` and ``#rows``.
        locate: fetches what is on no disk yet.
        flag: named in errors.

    Raises:
        ConfigError: all names that cannot be used, at once.
    """
    problems: list[str] = []
    sources: list[Source] = []
    for number, text in enumerate(names):
        try:
            name = parse(text)
            entry = None if Path(name.path).expanduser().exists() else entry_of(name.path)
            columns = tuple(entry.columns.items()) if entry else ()
            files = _files(name, locate, entry)
            sources += [Source(file, shown, name.take, number, columns) for shown, file in files]
        except ConfigError as error:
            problems += [line.replace("--dataset:", f"{flag}:", 1) for line in error.problems]
    if problems:
        raise ConfigError(*problems)
    return sources


def _files(name: Name, locate: Locate, entry: Entry | None) -> list[tuple[str, Path]]:
    """The files of a name, and how each is shown."""
    if name.is_pattern:
        return [(str(file), file) for file in matching(name)]
    subset = entry.subsets[0] if entry and entry.subsets else None
    path = find_dataset(name.path)
    if path is None:
        path = locate(name.path, lambda files: choose(name, files, subset))
    return [
        (name.path if path == file else f"{name.path}/{file.relative_to(path)}", file)
        for file in files_of(name, path, subset)
    ]


def read(sources: Sequence[Source], seed: int, size: int = BLOCK) -> Iterator[Block]:
    """The rows of all sources, in order, in blocks.

    Args:
        sources: files; of a data set with ``take`` below its number of rows, that many are picked
            at random from all its files together.
        seed: of that choice.
        size: most rows of a block.

    Raises:
        DataError: a file cannot be read at all.
    """
    for _, group in groupby(sources, lambda source: (source.dataset, source.take)):
        files = list(group)
        if files[0].take is None or len(files) == 1:
            for source in files:
                yield from blocks(source, seed, size)
            continue
        counts = [_count(source) for source in files]
        picked = _pick(sum(counts), files[0].take, seed)
        ends = np.cumsum(counts)
        for source, end, count in zip(files, ends, counts, strict=True):
            mine = None if picked is None else picked[end - count : end]
            yield from _blocks(source, mine, size)


def check_take(sources: Sequence[Source], flag: str, why: str) -> None:
    """Refuse ``name#N`` with more rows than there are, where rows do not come back.

    Raises:
        ConfigError: with the number of rows that there are.
    """
    for (_, take), group in groupby(sources, lambda source: (source.dataset, source.take)):
        files = list(group)
        if take is not None and take > (count := sum(map(_count, files))):
            raise ConfigError(
                f"{flag}: {files[0].name}#{take}: it has {count} rows, and {why}; take at most "
                f"#{count}"
            )


def blocks(source: Source, seed: int, size: int = BLOCK) -> Iterator[Block]:
    """The rows of one source, in order, ``size`` at a time.

    Args:
        source: a file; with ``take`` below its number of rows, that many are picked at random.
        seed: of that choice.
        size: most rows of a block.

    Raises:
        DataError: the file cannot be read at all.
    """
    picked = None if source.take is None else _pick(_count(source), source.take, seed)
    return _blocks(source, picked, size)


def _count(source: Source) -> int:
    return sum(1 for _ in rows(source))


def _blocks(source: Source, picked: np.ndarray[Any, Any] | None, most: int) -> Iterator[Block]:
    lines: list[int] = []
    raw: list[bytes] = []
    size = 0
    for number, (line, row) in enumerate(rows(source)):
        if picked is not None and not picked[number]:
            continue
        lines.append(line)
        raw.append(row)
        size += len(row)
        if len(raw) == most or size > _BLOCK_BYTES:
            yield Block(source, lines, raw)
            lines, raw, size = [], [], 0
    if raw:
        yield Block(source, lines, raw)


def _pick(count: int, take: int, seed: int) -> np.ndarray[Any, Any] | None:
    if take >= count:
        return None
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).choice(count, size=take, replace=False)] = True
    return chosen


def rows(source: Source) -> Iterator[tuple[int, bytes]]:
    """Line number and JSON bytes of every row of a file.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    found = records(source.path, source.name)
    if not source.columns:
        return found
    return ((line, _renamed(row, source.columns)) for line, row in found)


def _renamed(raw: bytes, columns: tuple[tuple[str, str], ...]) -> bytes:
    """A row under other names; one that cannot be read stays, for its reader to say why."""
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    if not isinstance(row, dict):
        return raw
    old = {name for name, _ in columns}
    new = {to: row[name] for name, to in columns if name in row}
    return dump({name: value for name, value in row.items() if name not in old} | new)
