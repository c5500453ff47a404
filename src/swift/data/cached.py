"""Tokens in a folder that can be sent to somebody: made once, learned from anywhere.

``tokens.json`` says with which renderer and settings they were made and where each row came from;
beside it lie the encoder's files. Samples keep their full length: what is too long is decided by
the run that learns from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from swift.chat.render import RendererSpec
from swift.data.encode import VERSION, Encoded, EncodeSettings
from swift.data.source import Block, Source
from swift.data.tokens import write_tokens
from swift.errors import ConfigError, DataError

INDEX = "tokens.json"
_TOLD = {"learn": "--loss_scale", "system": "--system", "kind": "swift sft and swift pt"}


def write_cached(
    folder: Path,
    encoded: Iterable[Encoded],
    spec: RendererSpec,
    settings: EncodeSettings,
    choose: Mapping[str, float] | None = None,
    seed: int = 42,
) -> dict[str, int]:
    """Write blocks of tokens.

    Args:
        folder: of the parts, each in a folder of its own.
        encoded: blocks, in order.
        spec: the renderer that made them.
        settings: how rows were read.
        choose: part -> share of the rows that go into it. Default: all into ``train``.
        seed: of the choice.

    Returns:
        Samples of each part.
    """
    shares = dict(choose or {"train": 1.0})
    names = list(shares)
    files: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    counts = dict.fromkeys(names, 0)
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
    for part in encoded:
        with pa.memory_map(str(part.path)) as file:
            table = pa.ipc.open_file(file).get_batch(0)
            own = random.choice(len(names), size=len(part.block.lines), p=list(shares.values()))
            for number, name in enumerate(names):
                rows = np.flatnonzero(own == number)
                if len(rows):
                    chosen, failures = _only(table, part.failures, rows)
                    target = folder / name / f"{len(files[name]):06}.arrow"
                    write_tokens(target, chosen, failures)
                    files[name].append(_described(target, part.block, rows))
                    counts[name] += len(chosen)
    record = {"version": VERSION, "renderer": spec.fingerprint, "settings": _plain(settings)}
    for name in names:
        text = json.dumps({**record, "files": files[name]}, ensure_ascii=False)
        (folder / name / INDEX).write_text(text, encoding="utf-8")
    return counts


def _only(
    table: pa.RecordBatch, failures: list[tuple[int, str]], rows: np.ndarray[Any, Any]
) -> tuple[pa.RecordBatch, list[tuple[int, str]]]:
    """The samples and failures of some rows of a block, under their new numbers."""
    place = {int(row): i for i, row in enumerate(rows)}
    row_S = table["row"].to_numpy()
    kept = table.filter(pa.array(np.isin(row_S, rows)))
    numbers = pa.array([place[int(row)] for row in kept["row"].to_numpy()], pa.int32())
    columns = [numbers if name == "row" else kept[name] for name in kept.schema.names]
    chosen = pa.record_batch(columns, schema=kept.schema.remove_metadata())
    return chosen, [(place[row], why) for row, why in failures if row in place]


def _described(file: Path, block: Block, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    lines = [block.lines[int(row)] for row in rows]
    return {
        "file": file.name,
        "source": block.source.name,
        "kind": block.source.path.name,  # tells whether rows are found by line or by number
        "lines": _runs(lines),
    }


def _runs(lines: list[int]) -> list[list[int]]:
    """Line numbers as [first, how many]."""
    found = []
    for _, run in groupby(enumerate(lines), lambda pair: pair[1] - pair[0]):
        members = [line for _, line in run]
        found.append([members[0], len(members)])
    return found


def _plain(settings: EncodeSettings) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(replace(settings, plugins=()))))
    return plain


def cached_part(folder: Path, part: str) -> Path:
    """The folder of a part, given it or the one above.

    Raises:
        ConfigError: there is no such thing.
    """
    for place in (folder, folder / part):
        if (place / INDEX).is_file():
            return place
    raise ConfigError(
        f"{folder} holds no {INDEX}; give a folder that swift export --to_cached_dataset made"
    )


def read_cached(
    folder: Path, spec: RendererSpec, settings: EncodeSettings, dataset: int
) -> Iterator[Encoded]:
    """The blocks of a folder of tokens.

    Args:
        folder: with ``tokens.json``.
        spec: the renderer of the run.
        settings: those of the run; they must not ask for other tokens.
        dataset: the place of the folder among the data sets of the run.

    Raises:
        ConfigError: the tokens were made for another model or with other settings.
        DataError: the folder is damaged.
    """
    try:
        record = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = record["files"]
        _check(folder, record, spec, settings)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / INDEX} is damaged: {error!r}") from None
    for one in files:
        path = folder / one["file"]
        lines = [first + i for first, count in one["lines"] for i in range(count)]
        source = Source(Path(one["kind"]), one["source"], dataset=dataset)
        yield Encoded.of(path, Block(source, lines, []))


def _check(
    folder: Path, record: dict[str, Any], spec: RendererSpec, settings: EncodeSettings
) -> None:
    if record["version"] != VERSION or record["renderer"] != spec.fingerprint:
        raise ConfigError(
            f"{folder}: its tokens are not those that this model's tokenizer and template make; "
            "make them again with swift export --to_cached_dataset"
        )
    then, now = record["settings"], _plain(settings)
    unset = _plain(EncodeSettings(settings.kind))
    for name, value in now.items():
        asked = value != unset[name] or name in ("kind", "learn")
        if asked and then[name] != value:
            raise ConfigError(
                f"{folder}: its tokens were made with another {_TOLD.get(name, name)} "
                f"({then[name]!r}, now {value!r}); make them again or give the same"
            )
