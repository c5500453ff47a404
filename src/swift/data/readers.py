"""Data files -> rows as the bytes of their JSON, one reader a kind of file.

Every reader is a stream: memory does not grow with the file. The exception is a ``.json`` file
that is one object, which JSON lets nobody read in parts.
"""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, cast

from swift.errors import DataError

Rows = Iterator[tuple[int, bytes]]
"""The line of every row, or its number where a file has no lines, and its JSON."""

_AT_ONCE = 2048  # rows of a table that are turned into JSON at a time
_FIELD = 1 << 30  # most bytes in a field of a table; the library's own bound is 128 KiB
_DOCUMENT = 1 << 20  # a longer text file is cut into documents of about this many characters
_CHUNK = 1 << 20  # characters of a list of rows that are read at a time
_MARK = b"\xef\xbb\xbf"  # of UTF-8, at the beginning
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def kind_of(path: Path) -> str | None:
    """The kind of a data file by its name, without what it is packed with; None: no data file.

    ``chats.jsonl`` and ``chats.jsonl.gz`` are both ``.jsonl``.
    """
    if path.suffix in _UNPACK:
        inner = Path(path.stem).suffix
        return inner if inner in _READERS and inner not in _SEEK else None
    return path.suffix if path.suffix in _READERS else None


def known() -> str:
    """The kinds of files, for a person."""
    return ", ".join(sorted(_READERS))


def packed() -> str:
    """What files may be packed with, for a person."""
    return ", ".join(sorted(_UNPACK))


def by_line(path: Path) -> bool:
    """Whether a row is found by its line; else by its number."""
    return kind_of(path) not in (".json", *_SEEK)


def records(path: Path, name: str) -> Rows:
    """The rows of a file.

    Args:
        path: a file with a kind.
        name: what errors call it.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    kind = kind_of(path)
    assert kind is not None, path
    try:
        yield from _READERS[kind](path, name)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: cannot be unpacked: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{name}: No such file or directory") from None
    except OSError as error:
        packed = error.errno is None and path.suffix in _UNPACK
        why = f"cannot be unpacked: {error}" if packed else error.strerror or error
        raise DataError(f"{name}: {why}") from None


def _gzip(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(path))


def _zstd(path: Path) -> IO[bytes]:
    import pyarrow

    file: Any = pyarrow.CompressedInputStream(path.open("rb"), "zstd")
    return io.BufferedReader(file)


_UNPACK: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": _gzip,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}


def _open(path: Path) -> IO[bytes]:
    return _UNPACK[path.suffix](path) if path.suffix in _UNPACK else path.open("rb")


def _text(path: Path, newline: str | None = None, errors: str = "strict") -> IO[str]:
    return io.TextIOWrapper(_open(path), "utf-8-sig", errors, newline)


def _jsonl(path: Path, name: str) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(_MARK)
            if line.strip():
                yield number, line


def _json(path: Path, name: str) -> Rows:
    with _open(path) as file:
        head = file.readline(_CHUNK)
        while head and not head.removeprefix(_MARK).strip():
            head = file.readline(_CHUNK)
        head = head.removeprefix(_MARK).lstrip()
        if head[:1] == b"{" and not head.endswith(b"\n"):
            head += file.readline()
        one_by_line = _is_object(head) and _goes_on(file)
    if one_by_line:  # jsonl under another name
        yield from enumerate((row for _, row in _jsonl(path, name)), 1)
    elif head[:1] == b"[":
        with _text(path, errors="surrogatepass") as text:
            yield from enumerate(map(dump, _items(text, name)), 1)
    else:
        yield from _whole(path, name)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _goes_on(file: IO[bytes]) -> bool:
    return any(line.strip() for line in file)


def _items(text: IO[str], name: str) -> Iterator[Any]:
    """The items of a list, while it is read."""
    buffer, at, number, opens = "", 0, 0, True
    while True:
        try:
            found, at = _item(buffer, at, opens)
        except (ValueError, IndexError) as error:  # wrong, or cut by the end of the buffer
            buffer, at = buffer[at:], 0
            try:
                more = text.read(max(_CHUNK, len(buffer)))
            except UnicodeDecodeError as unreadable:
                raise DataError(f"{name}: not JSON: {unreadable}") from None
            if not more:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "the list is cut"
                raise DataError(f"{name}: not JSON: row {number + 1}: {why}") from None
            buffer += more
            continue
        opens = False
        number += len(found)
        yield from found
        if not found:
            break
    if (buffer[at:] + text.read(_CHUNK)).strip():
        raise DataError(f"{name}: not JSON: text behind the end of the list")


def _item(buffer: str, at: int, opens: bool) -> tuple[list[Any], int]:
    """The next item of a list and where it ends; no item: the list ends."""
    at = _behind_space(buffer, at)
    if buffer[at] == "]" and not opens:
        return [], at + 1
    if buffer[at] != ("[" if opens else ","):
        raise json.JSONDecodeError("Expecting ',' delimiter", buffer, at)
    at = _behind_space(buffer, at + 1)
    if buffer[at] == "]" and opens:
        return [], at + 1
    found, at = _DECODER.raw_decode(buffer, at)
    at = _behind_space(buffer, at)
    if buffer[at] not in ",]":
        raise json.JSONDecodeError("Expecting ',' delimiter", buffer, at)
    return [found], at


def _behind_space(buffer: str, at: int) -> int:
    found = _SPACE.match(buffer, at)
    assert found is not None
    return found.end()


def _whole(path: Path, name: str) -> Rows:
    with _open(path) as file:
        text = file.read().removeprefix(_MARK)
    try:
        content = json.loads(text)
    except ValueError as error:
        if b"\n{" in text:  # rows by line, the first of them broken
            yield from enumerate((row for _, row in _jsonl(path, name)), 1)
            return
        raise DataError(f"{name}: not JSON: {error}") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    if not isinstance(content, list):
        raise DataError(f"{name}: should hold a list of rows")
    for number, row in enumerate(content, 1):
        yield number, dump(row)


def _csv(path: Path, name: str) -> Rows:
    csv.field_size_limit(_FIELD)
    with _text(path, newline="") as file:
        reader = csv.reader(file, delimiter="\t" if kind_of(path) == ".tsv" else ",")
        try:
            columns = next((row for row in reader if row), [])
            end = reader.line_num
            for row in reader:
                first, end = end + 1, reader.line_num  # a quoted field may hold line ends
                if row:
                    yield first, dump(dict(zip_longest(columns, row[: len(columns)])))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{name}:{reader.line_num + 1}: not CSV: {error}") from None


def _parquet(path: Path, name: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(path)
        for group in range(table.num_row_groups):
            # all groups at once, or with threads, it reads far ahead and keeps what was read
            for batch in table.iter_batches(_AT_ONCE, row_groups=[group], use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, dump(row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: not Parquet: {error}") from None


def _arrow(path: Path, name: str) -> Rows:
    """Both forms of Arrow's own files: with a footer, and as a stream (``save_to_disk``)."""
    import pyarrow

    number = 0
    try:
        for batch in _batches(path):
            for start in range(0, batch.num_rows, _AT_ONCE):
                for row in batch.slice(start, _AT_ONCE).to_pylist():
                    number += 1
                    yield number, dump(row)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name}: not Arrow: {error}") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        if file.read(6) == b"ARROW1":
            table = pyarrow.ipc.open_file(file)
            yield from (table.get_batch(i) for i in range(table.num_record_batches))
            return
        file.seek(0)
        yield from pyarrow.ipc.open_stream(file)


def _txt(path: Path, name: str) -> Rows:
    """A text file is one document; a very long one several, cut at empty lines."""
    with _text(path) as file:
        first, size, part = 1, 0, []
        try:
            for number, line in enumerate(file, 1):
                part.append(line)
                size += len(line)
                if size > _DOCUMENT and not line.strip():
                    yield first, dump({"text": "".join(part)})
                    first, size, part = number + 1, 0, []
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 text: {error.reason}") from None
        if part:
            yield first, dump({"text": "".join(part)})


def dump(row: Any) -> bytes:
    """A row as the bytes of its JSON; binary values (images in tables) become ``data:`` URLs."""
    return json.dumps(row, ensure_ascii=False, default=_as_text).encode("utf-8", "surrogatepass")


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"data:;base64,{base64.b64encode(value).decode()}"
    return str(value)


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _txt,
    ".md": _txt,
}
_SEEK = (".parquet", ".arrow")  # read from several places: not packed
