"""Rows -> tokens, block by block, in as many processes as asked for; each block is made once.

A block's tokens are an Arrow file named by the hash of its rows, the renderer and the settings: a
run that was broken off goes on where it stopped, a second run encodes nothing, and the result is
the same for any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from swift import registry
from swift.chat.message import Conversation, Rendered, Text
from swift.chat.render import Renderer, RendererSpec
from swift.config.data import DataSection
from swift.data.formats.form import Format, formats, understand, understand_any
from swift.data.formats.meaning import Meaning, each, kind_of, with_system
from swift.data.formats.media import located
from swift.data.labelled import labelled
from swift.data.process import end_with_parent
from swift.data.source import Block
from swift.data.tokens import Compact, compact, table_of, write_tokens
from swift.errors import DataError, RenderError, ResourceError

_REASON = 1000  # characters of the reason why a row cannot be used
VERSION = 7  # part of every key; raised when the meaning of the files changes


@dataclass(frozen=True)
class EncodeSettings:
    """What decides the tokens of a row beside the row and the renderer."""

    kind: str  # "text", or a task of data.formats.form
    learn: str = "default"
    system: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()  # ("{{NAME}}", ("Apus",)), ...
    plugins: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task whose formats its rows have."""
        return "chat" if self.kind == "text" else self.kind

    @classmethod
    def of(cls, kind: str, section: DataSection, plugins: Iterable[str] = ()) -> EncodeSettings:
        """What a run's data section says of it."""
        names = (("{{NAME}}", section.model_name), ("{{AUTHOR}}", section.model_author))
        return cls(
            kind=kind,
            learn=section.learn,
            system=section.system,
            columns=tuple(sorted(section.columns.items())),
            names=tuple((mark, tuple(choice)) for mark, choice in names if choice),
            plugins=tuple(plugins),
        )


@dataclass(frozen=True)
class Encoded:
    """The tokens of one block: where they lie, and what became of its rows."""

    path: Path
    block: Block
    failures: list[tuple[int, str]]  # index of the row in the block, reason

    @classmethod
    def of(cls, path: Path, block: Block) -> Encoded:
        """What lies in a file of tokens.

        Raises:
            DataError: it is not there, or damaged.
        """
        try:
            return cls(path, replace(block, rows=[]), _failures(path))
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(f"{path}: no tokens can be read from it: {error}") from None


def encode(
    blocks: Iterable[Block],
    spec: RendererSpec,
    settings: EncodeSettings,
    cache: Path,
    *,
    processes: int = 1,
    fresh: bool = False,
    names: Iterator[str] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Encoded]:
    """Encode blocks in order, at most a few ahead of the reader.

    Args:
        blocks: rows.
        spec: the renderer.
        settings: how rows are read and what is learned.
        cache: folder of the token files.
        processes: how many encode at once.
        fresh: make them again even where a file is there.
        names: of the files. Default: by content, so that equal blocks share one.
        progress: told the rows done after each block.

    Raises:
        ResourceError: the files cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{cache}: {error.strerror}; set SWIFT_CACHE to a folder of yours"
        ) from None
    stem = f"{VERSION}:{spec.fingerprint}:{settings}:{_plugin_hash(settings)}"

    def stem_of(block: Block) -> str:
        """Where images may be meant, tokens depend on the folder that their paths begin at."""
        return f"{stem}:{block.source.path.parent.absolute()}" if spec.media else stem

    named = (
        (block, cache / (next(names) if names else _name(stem_of(block), block)))
        for block in blocks
    )
    if processes == 1:
        for block, path in named:
            if fresh or not _whole(path, spec):
                _encode_block(block, spec, settings, path)
            yield _finished(path, block, progress)
        return
    yield from _in_parallel(named, spec, settings, processes, fresh, progress)


def _in_parallel(
    named: Iterable[tuple[Block, Path]],
    spec: RendererSpec,
    settings: EncodeSettings,
    processes: int,
    fresh: bool,
    progress: Callable[[int], None],
) -> Iterator[Encoded]:
    waiting: deque[tuple[Path, Block, Future[None] | None]] = deque()
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_worker, (spec, settings)) as pool:
        for block, path in named:
            todo = fresh or not _whole(path, spec)
            future = pool.submit(_work, block, path) if todo else None
            waiting.append((path, block, future))
            while len(waiting) > 2 * processes:
                yield _result(*waiting.popleft(), progress)
        while waiting:
            yield _result(*waiting.popleft(), progress)


def _result(
    path: Path, block: Block, future: Future[None] | None, progress: Callable[[int], None]
) -> Encoded:
    if future is not None:
        try:
            future.result()
        except BrokenProcessPool:
            why = "a process that makes tokens was killed, perhaps for its memory"
            raise ResourceError(f"{why}; lower --dataset_num_proc") from None
    return _finished(path, block, progress)


def _whole(path: Path, spec: RendererSpec) -> bool:
    """Whether a file of tokens is there to its end (a crash of the machine may cut it).

    Where rows may name images, those that failed are tried again: an image may be there by now.
    """
    try:
        return not (_failures(path) and spec.media)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False


def _failures(path: Path) -> list[tuple[int, str]]:
    with pa.memory_map(str(path)) as file:
        metadata = pa.ipc.open_file(file).schema.metadata or {}
    return [(int(row), str(why)) for row, why in json.loads(metadata[b"failures"])]


def _finished(path: Path, block: Block, progress: Callable[[int], None]) -> Encoded:
    progress(len(block.rows))
    return Encoded.of(path, block)


def _name(stem: str, block: Block) -> str:
    digest = hashlib.blake2b(stem.encode(), digest_size=20)
    for row in block.rows:
        digest.update(len(row).to_bytes(8, "little"))
        digest.update(row)
    return f"{digest.hexdigest()}.arrow"


def _plugin_hash(settings: EncodeSettings) -> str:
    """A changed plug-in may read rows differently."""
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in settings.plugins)).hexdigest()


_worker: tuple[RendererSpec, EncodeSettings] | None = None


def _start_worker(spec: RendererSpec, settings: EncodeSettings) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()
    registry.load_plugins(list(settings.plugins))
    _worker = spec, settings


def _work(block: Block, path: Path) -> None:
    assert _worker is not None
    _encode_block(block, *_worker, path)


@cache
def _renderer(fingerprint: str) -> list[Renderer]:
    return []


def renderer_of(spec: RendererSpec) -> Renderer:
    """The renderer of a spec, made once in each process."""
    kept = _renderer(spec.fingerprint)
    if not kept:
        kept.append(Renderer(spec))
    return kept[0]


def _encode_block(block: Block, spec: RendererSpec, settings: EncodeSettings, path: Path) -> None:
    renderer, known = renderer_of(spec), formats(settings.task)
    base = block.source.path.parent.absolute()
    made: list[tuple[int, Compact]] = []
    failures: list[tuple[int, str]] = []
    for index, raw in enumerate(block.rows):
        try:
            samples = compact_row(raw, renderer, settings, known, base)
        except (DataError, RecursionError) as error:
            failures.append((index, _reason(error)))
            continue
        made.extend((index, sample) for sample in samples)
    write_tokens(path, table_of(made), failures)


def _reason(error: Exception) -> str:
    """Why a row cannot be used, fit to print: rows may hold anything, also in names."""
    text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _REASON else f"{text[:_REASON]}..."


def compact_row(
    raw: bytes, renderer: Renderer, settings: EncodeSettings, known: list[Format], base: Path
) -> list[Compact]:
    """One row's samples as they are kept; arguments and errors as of :func:`encode_row`."""
    if settings.kind in ("chat", "text"):
        return [compact(sample) for sample in encode_row(raw, renderer, settings, known, base)]
    return [labelled(read_row(raw, settings, known, base), renderer, settings.learn)]


def encode_row(
    raw: bytes,
    renderer: Renderer,
    settings: EncodeSettings,
    known: list[Format],
    base: Path | None = None,
) -> list[Rendered]:
    """One row's samples.

    Args:
        raw: its JSON.
        renderer: writes it.
        settings: how it is read.
        known: the formats of the task.
        base: the folder of the row's file, where paths of media may begin.

    Raises:
        DataError: the row cannot be used; the message says why.
    """
    meaning = read_row(raw, settings, known, base)
    if settings.kind == "text":
        return [renderer.text(_as_text(meaning))]
    if isinstance(meaning, Text):
        raise RenderError("a plain text has no turns to learn; use swift pt for it")
    if not isinstance(meaning, Conversation):
        raise RenderError(f"swift sft learns conversations, this row is of kind {kind_of(meaning)}")
    return renderer.render(meaning, settings.learn)


def read_row(
    raw: bytes, settings: EncodeSettings, known: list[Format] | None, base: Path | None = None
) -> Meaning:
    """What a row says, by the settings of the run.

    Args:
        raw: its JSON.
        settings: how rows are read.
        known: the formats of the task; None: those of all tasks.
        base: the folder of the row's file, where paths of media may begin.

    Raises:
        DataError: the row cannot be understood.
    """
    row = _parse(raw)
    if isinstance(row, dict):
        renamed = dict(settings.columns)
        row = {name: value for name, value in row.items() if name not in renamed} | {
            to: row[name] for name, to in settings.columns if name in row
        }
        row = _fill_names(row, settings.names)
    meaning = understand(row, known) if known is not None else understand_any(row)
    if base is not None:
        meaning = each(meaning, partial(located, base=base))
    if settings.kind == "text" or not settings.system:
        return meaning
    return with_system(meaning, settings.system)


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except UnicodeDecodeError:
        raise DataError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"not JSON: {why}{at}") from None


def _fill_names(value: Any, names: tuple[tuple[str, tuple[str, ...]], ...]) -> Any:
    """Put a name in the place of {{NAME}}; of two names the first is for rows in Chinese."""
    if not names:
        return value
    text = json.dumps(value, ensure_ascii=False)
    chinese = any("\u4e00" <= char <= "\u9fff" for char in text)
    for mark, choice in names:
        if mark in text:
            chosen = choice[0] if chinese or len(choice) == 1 else choice[1]
            text = text.replace(mark, json.dumps(chosen, ensure_ascii=False)[1:-1])
    return json.loads(text)


def _as_text(meaning: Meaning) -> Text:
    if isinstance(meaning, Text):
        return meaning
    messages = meaning.messages if isinstance(meaning, Conversation) else ()
    if len(messages) == 1 and isinstance(messages[0].content, str):
        return Text(messages[0].content)
    raise RenderError("swift pt learns plain text, this is a conversation; use swift sft")
