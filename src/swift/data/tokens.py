"""A file of tokens: the samples of one block of rows, in Arrow's form."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from swift.chat.message import Media, Rendered
from swift.errors import RenderError, ResourceError

SCHEMA = pa.schema(
    [
        ("tokens", pa.list_(pa.int32())),
        ("runs", pa.list_(pa.int32())),  # weights as runs: how many tokens ...
        ("weights", pa.list_(pa.float32())),  # ... have this weight
        ("row", pa.int32()),  # index of the row in the block
        ("media", pa.string()),  # JSON of [kind, source] of every medium in the tokens; or null
        ("parts", pa.list_(pa.int32())),  # tokens of each of its sequences; empty: it is one
        ("labels", pa.list_(pa.float32())),  # numbers that say what it is an example of
    ]
)


@dataclass(frozen=True, slots=True)
class Compact:
    """A sample as it is kept."""

    tokens: list[int]
    runs: list[int]  # how many tokens ...
    weights: list[float]  # ... have this weight
    media: str | None  # JSON of [kind, source] of each
    parts: tuple[int, ...] = ()  # tokens of each of its sequences; empty: it is one
    labels: tuple[float, ...] = ()


def compact(sample: Rendered) -> Compact:
    """Tokens up to the last learned one (what follows it decides nothing), weights as runs.

    A sample with media keeps what follows, in which some of them may stand.

    Raises:
        RenderError: nothing is learned in it.
    """
    runs: list[int] = []
    weights: list[float] = []
    for value, same in groupby(sample.weights):
        weight, size = float(np.float32(value)), len(list(same))
        if weights and weights[-1] == weight:
            runs[-1] += size
        else:
            runs.append(size)
            weights.append(weight)
    if not any(weights):
        raise RenderError("there is nothing to learn in it")
    if not weights[-1] and not sample.media:
        runs.pop()
        weights.pop()
    media = json.dumps([[one.kind, one.source] for one in sample.media]) if sample.media else None
    return Compact(sample.tokens[: sum(runs)], runs, weights, media)


def joined(samples: Sequence[Compact], labels: Sequence[float] = ()) -> Compact:
    """Sequences that are learned from together, end to end, as one sample."""
    media = [one for sample in samples for one in json.loads(sample.media or "[]")]
    return Compact(
        [token for sample in samples for token in sample.tokens],
        [run for sample in samples for run in sample.runs],
        [weight for sample in samples for weight in sample.weights],
        json.dumps(media) if media else None,
        tuple(len(sample.tokens) for sample in samples),
        tuple(labels),
    )


def table_of(samples: list[tuple[int, Compact]]) -> pa.RecordBatch:
    """Samples with the index of their row, as columns."""
    columns = [
        _lists([one.tokens for _, one in samples], "i", pa.int32()),
        _lists([one.runs for _, one in samples], "i", pa.int32()),
        _lists([one.weights for _, one in samples], "f", pa.float32()),
        pa.array([row for row, _ in samples], pa.int32()),
        pa.array([one.media for _, one in samples], pa.string()),
        _lists([list(one.parts) for _, one in samples], "i", pa.int32()),
        _lists([list(one.labels) for _, one in samples], "f", pa.float32()),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def _lists(lists: list[Any], code: str, kind: pa.DataType) -> pa.ListArray:
    """A column of lists: their values end to end, without an object for each."""
    values = array(code)
    for part in lists:
        values.fromlist(part)
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(part) for part in lists], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(values), kind))


def media_in(text: str | None) -> tuple[Media, ...]:
    """The media of a sample, from the form in which they are kept."""
    if not text:
        return ()
    return tuple(
        Media(kind, source if isinstance(source, str) else tuple(source))
        for kind, source in json.loads(text)
    )


def write_tokens(path: Path, table: pa.RecordBatch, failures: list[tuple[int, str]]) -> None:
    """Write a file of tokens, whole or not at all.

    Args:
        path: the file.
        table: of ``SCHEMA``.
        failures: index of the row in the block, reason.

    Raises:
        ResourceError: it cannot be written.
    """
    schema = SCHEMA.with_metadata({"failures": json.dumps(failures)})
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(table.replace_schema_metadata(schema.metadata))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"tokens cannot be written to {path.parent}: {error.strerror}"
        ) from None
