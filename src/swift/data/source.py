"""Files and hub names -> rows, in blocks, each row with the place it came from.

A row travels as the bytes of its JSON, so that it can be hashed and sent to another process
without being understood here. Files are read as a stream: memory does not grow with the rows.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from swift.errors import ConfigError, DataError
from swift.hub.locate import find_adapter, find_dataset, find_model

BLOCK = 2048
"""Rows in one block: small enough to spread over processes, large enough to be worth a file."""

_BLOCK_BYTES = 16 << 20  # a block of long rows ends when it has this many bytes

_FIELD = 1 << 30  # most bytes in a field of a table; the library's own bound is 128 KiB
# A folder with a part for training, by the names that hubs use, means that part.
_TRAIN = re.compile(r"(?<![a-z])train(ing)?(?![a-z])")
_HELD_OUT = re.compile(r"(?<![a-z])(test|testing|val|valid|validation|dev|eval)(?![a-z])")
_DOCUMENT = 1 << 20  # a longer text file is cut into documents of about this many characters


@dataclass(frozen=True)
class Source:
    """One data file, and how many of its rows are taken (None: all)."""

    path: Path
    name: str
    take: int | None = None

    def place(self, line: int) -> str:
        """How a person finds a row: ``chats.jsonl:17``, ``table.parquet row 17``."""
        if self.path.suffix in (".parquet", ".json"):
            return f"{self.name} row {line}"
        return f"{self.name}:{line}"


@dataclass(frozen=True)
class Block:
    """Rows that follow each other: JSON bytes and line numbers (counted from 1)."""

    source: Source
    lines: list[int]
    rows: list[bytes]


def split_name(name: str) -> tuple[str, int | None]:
    """``chats.jsonl#500`` -> (``chats.jsonl``, 500).

    Raises:
        ConfigError: what follows the # is not a number above 0.
    """
    path, mark, count = name.rpartition("#")
    if not mark or Path(name).exists():
        return name, None
    if not count.isdecimal() or int(count) == 0:
        raise ConfigError(f"--dataset: {name}: write the number of rows after the #, as in x#500")
    return path, int(count)


def check_inputs(
    models: Iterable[str], adapters: Iterable[str], data: Mapping[str, Iterable[str]]
) -> None:
    """See that what should be on this machine is there, before anything is fetched or loaded.

    Args:
        models: names of models.
        adapters: folders of adapters.
        data: flag -> names of data sets, each perhaps with ``#rows``.

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
            look(lambda name: find_dataset(split_name(name)[0]), name, flag)
    if problems:
        raise ConfigError(*problems)


def open_sources(
    names: list[str], locate: Callable[[str], Path], *, flag: str = "--dataset"
) -> list[Source]:
    """The files behind the names of a configuration.

    Args:
        names: paths or hub names, each perhaps with ``#rows``.
        locate: finds the local file or folder of a name.
        flag: named in errors.

    Raises:
        ConfigError: all names that cannot be used, at once.
    """
    problems: list[str] = []
    sources: list[Source] = []
    for name in names:
        try:
            bare, take = split_name(name)
            path = locate(bare)
            files = _files(path)
            if not files:
                raise ConfigError(f"{flag}: {bare} holds no {', '.join(sorted(_READERS))} file")
            if take is not None and len(files) > 1:
                raise ConfigError(f"{flag}: {name}: # works on one file, and {bare} has several")
            sources += [Source(file, _shown(bare, path, file), take) for file in files]
        except ConfigError as error:
            problems += [line.replace("--dataset:", f"{flag}:", 1) for line in error.problems]
    if problems:
        raise ConfigError(*problems)
    return sources


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in _READERS:
            raise ConfigError(f"--dataset: {path}: known files are {', '.join(sorted(_READERS))}")
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in _READERS)
    names = {file: file.relative_to(path).as_posix().lower() for file in files}
    files = [file for file in files if not re.search(r"(^|/)\.", names[file])]
    if any(_TRAIN.search(names[file]) for file in files):
        files = [file for file in files if not _HELD_OUT.search(names[file])]
    return files


def _shown(bare: str, path: Path, file: Path) -> str:
    return bare if path == file else f"{bare}/{file.relative_to(path)}"


def blocks(source: Source, seed: int) -> Iterator[Block]:
    """The rows of a source, in order, ``BLOCK`` at a time.

    Args:
        source: a file; with ``take`` below its number of rows, that many are picked at random.
        seed: of that choice.

    Raises:
        DataError: the file cannot be read at all.
    """
    picked = None
    if source.take is not None:
        picked = _pick(sum(1 for _ in rows(source)), source.take, seed)
    lines: list[int] = []
    raw: list[bytes] = []
    size = 0
    for number, (line, row) in enumerate(rows(source)):
        if picked is not None and not picked[number]:
            continue
        lines.append(line)
        raw.append(row)
        size += len(row)
        if len(raw) == BLOCK or size > _BLOCK_BYTES:
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
    try:
        yield from _READERS[source.path.suffix](source)
    except OSError as error:
        raise DataError(f"{source.name}: {error.strerror or error}") from None


def _jsonl(source: Source) -> Iterator[tuple[int, bytes]]:
    with source.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, line


def _json(source: Source) -> Iterator[tuple[int, bytes]]:
    text = source.path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        content = json.loads(text)
    except ValueError as error:
        if b"\n{" in text:  # rows by line under another name
            yield from enumerate((row for _, row in _jsonl(source)), 1)
            return
        raise DataError(f"{source.name}: not JSON: {error}") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    if not isinstance(content, list):
        raise DataError(f"{source.name}: should hold a list of rows")
    for number, row in enumerate(content, 1):
        yield number, _dump(row)


def _csv(source: Source) -> Iterator[tuple[int, bytes]]:
    csv.field_size_limit(_FIELD)
    with source.path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if source.path.suffix == ".tsv" else ",")
        try:
            columns = next((row for row in reader if row), [])
            end = reader.line_num
            for row in reader:
                first, end = end + 1, reader.line_num  # a quoted field may hold line ends
                if row:
                    yield first, _dump(dict(zip_longest(columns, row[: len(columns)])))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{source.name}:{reader.line_num + 1}: not CSV: {error}") from None


def _parquet(source: Source) -> Iterator[tuple[int, bytes]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(source.path).iter_batches(BLOCK):
            for row in batch.to_pylist():
                number += 1
                yield number, _dump(row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{source.name}: not Parquet: {error}") from None


def _txt(source: Source) -> Iterator[tuple[int, bytes]]:
    """A text file is one document; a very long one several, cut at empty lines."""
    with source.path.open(encoding="utf-8-sig", errors="strict") as file:
        first, size, part = 1, 0, []
        try:
            for number, line in enumerate(file, 1):
                part.append(line)
                size += len(line)
                if size > _DOCUMENT and not line.strip():
                    yield first, _dump({"text": "".join(part)})
                    first, size, part = number + 1, 0, []
        except UnicodeDecodeError as error:
            raise DataError(f"{source.name}: not UTF-8 text: {error.reason}") from None
        if part:
            yield first, _dump({"text": "".join(part)})


def _dump(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


_READERS: dict[str, Callable[[Source], Iterator[tuple[int, bytes]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
    ".md": _txt,
}
