"""Encoded blocks -> samples that fit: too long is dropped, cut, split or an error, and counted."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from swift.chat.message import Media
from swift.data.encode import Encoded
from swift.data.ledger import Ledger
from swift.data.source import Source
from swift.data.tokens import media_in
from swift.errors import DataError

Array = np.ndarray[Any, Any]

_OPEN_BLOCKS = 64


@dataclass(frozen=True)
class Sample:
    """Tokens that are learned from as one, and the row they come from."""

    tokens: Array  # int32 (L,)
    weights: Array  # float32 (L,)
    place: str  # "chats.jsonl:17"
    media: tuple[Media, ...] = ()  # in the order in which they stand in the tokens
    parts: tuple[int, ...] = ()  # tokens of each of its sequences, end to end; empty: it is one
    labels: tuple[float, ...] = ()  # what it is an example of
    reference: Array | None = None  # float32: log-probability of each learned token, if known
    partner: Sample | None = None  # another one of the data, for what compares two

    @property
    def sequences(self) -> list[tuple[Array, Array]]:
        """Tokens and weights of each of its sequences."""
        if not self.parts:
            return [(self.tokens, self.weights)]
        ends = np.cumsum(self.parts)[:-1]
        return list(zip(np.split(self.tokens, ends), np.split(self.weights, ends), strict=True))


@dataclass(frozen=True)
class _Block:
    path: Path
    source: Source
    lines: Array  # int32: line of every row of the block
    most: int  # tokens of a sequence, where a sample has several


class _Tokens:
    """The memory-mapped columns of one block's file."""

    def __init__(self, path: Path) -> None:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        self.row = batch["row"].to_numpy()
        self.token_at, self.token = _flat(batch["tokens"])
        self.run_at, self.run = _flat(batch["runs"])
        _, self.weight = _flat(batch["weights"])
        self.media = batch["media"]
        self.has_media_S = self.media.is_valid().to_numpy(zero_copy_only=False)
        self.part_at, self.part = _flat(batch["parts"])
        self.label_at, self.label = _flat(batch["labels"])

    def tokens_of(self, i: int) -> Array:
        return self.token[self.token_at[i] : self.token_at[i + 1]]

    def weights_of(self, i: int) -> Array:
        runs = slice(self.run_at[i], self.run_at[i + 1])
        return np.repeat(self.weight[runs], self.run[runs])

    def parts_of(self, i: int) -> Array:
        """Tokens of each sequence of a sample that has several; else nothing."""
        return self.part[self.part_at[i] : self.part_at[i + 1]]

    def labels_of(self, i: int) -> Array:
        return self.label[self.label_at[i] : self.label_at[i + 1]]

    @property
    def length_S(self) -> Array:
        return np.diff(self.token_at).astype(np.int64)

    @property
    def longest_S(self) -> Array:
        """Tokens of the longest sequence of every sample."""
        longest_S, several_S = self.length_S, np.diff(self.part_at) > 0
        if several_S.any():
            firsts = self.part_at[:-1][several_S]
            longest_S[several_S] = np.maximum.reduceat(self.part, firsts)
        return longest_S

    @property
    def learned_S(self) -> Array:
        """Learned tokens of every sample, its first token left out (nothing predicts it)."""
        if not len(self.row):
            return np.zeros(0, np.int64)
        firsts = self.run_at[:-1]
        counts = np.add.reduceat(np.where(self.weight > 0, self.run, 0), firsts)
        return (counts - (self.weight[firsts] > 0)).astype(np.int64)


def _flat(column: pa.ListArray) -> tuple[Array, Array]:
    return column.offsets.to_numpy(), column.values.to_numpy()


@dataclass
class Samples(Sequence[Sample]):
    """Samples on disk, read when asked for. In memory: 20 bytes a sample and 4 a row."""

    blocks: list[_Block] = field(default_factory=list)
    block_S: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    index_S: Array = field(default_factory=lambda: np.zeros(0, np.int32))  # in its block
    start_S: Array = field(default_factory=lambda: np.zeros(0, np.int32))  # first token
    stop_S: Array = field(default_factory=lambda: np.zeros(0, np.int32))  # behind its last token
    learned_S: Array = field(default_factory=lambda: np.zeros(0, np.int32))  # tokens learned
    known: Array | None = None  # float32: log-probabilities of learned tokens under a reference ...
    known_at: Array | None = None  # ... and where those of every sample begin; and the end

    def __post_init__(self) -> None:
        self._open: OrderedDict[int, _Tokens] = OrderedDict()

    def __len__(self) -> int:
        return len(self.block_S)

    def __getitem__(self, i: Any) -> Any:
        block, tokens = self.blocks[int(self.block_S[i])], self._tokens(int(self.block_S[i]))
        index, lengths = int(self.index_S[i]), tokens.parts_of(int(self.index_S[i]))
        part: Any = slice(int(self.start_S[i]), int(self.stop_S[i]))
        if len(lengths) and (lengths > block.most).any():
            spans = _spans(lengths, block.most, left=part.start > 0)
            part = np.concatenate([np.arange(a, b) for a, b in spans])
            lengths = np.array([b - a for a, b in spans])
        return Sample(
            tokens.tokens_of(index)[part],
            tokens.weights_of(index)[part],
            self.place(i),
            media_in(tokens.media[index].as_py()) if tokens.has_media_S[index] else (),
            tuple(lengths.tolist()),
            tuple(tokens.labels_of(index).tolist()),
            None if self.known_at is None else self._known(int(i)),
        )

    def _known(self, i: int) -> Array:
        assert self.known is not None and self.known_at is not None
        return self.known[self.known_at[i] : self.known_at[i + 1]]

    def place(self, i: int) -> str:
        """The row that a sample comes from."""
        block = self.blocks[int(self.block_S[i])]
        row = self._tokens(int(self.block_S[i])).row[int(self.index_S[i])]
        return block.source.place(int(block.lines[row]))

    @property
    def lengths_S(self) -> Array:
        """Tokens of every sample."""
        return self.stop_S - self.start_S

    @property
    def has_media(self) -> bool:
        """Whether any sample has images."""
        return any(self._tokens(int(block)).has_media_S.any() for block in np.unique(self.block_S))

    @property
    def whole_S(self) -> Array:
        """Tokens that every sample had before it was cut or split."""
        whole_S = np.zeros(len(self), np.int64)
        order = np.argsort(self.block_S, kind="stable")
        borders = np.searchsorted(self.block_S[order], np.arange(len(self.blocks) + 1))
        for block in range(len(self.blocks)):
            mine = order[borders[block] : borders[block + 1]]
            whole_S[mine] = self._tokens(block).length_S[self.index_S[mine]]
        return whole_S

    def select(self, chosen: Array) -> Samples:
        """The samples of these indices, in this order."""
        return Samples(
            self.blocks,
            self.block_S[chosen],
            self.index_S[chosen],
            self.start_S[chosen],
            self.stop_S[chosen],
            self.learned_S[chosen],
        )

    @property
    def fingerprint(self) -> str:
        """Equal for equal samples in equal order; changes with any token of any row."""
        digest = hashlib.sha256()
        for block in self.blocks:
            digest.update(block.path.name.encode())
        for array in (self.block_S, self.index_S, self.start_S, self.stop_S):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _tokens(self, block: int) -> _Tokens:
        """The tokens of a block; the most recently used ones stay open."""
        if block not in self._open:
            self._open[block] = _Tokens(self.blocks[block].path)
            if len(self._open) > _OPEN_BLOCKS:
                self._open.popitem(last=False)
        self._open.move_to_end(block)
        return self._open[block]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = OrderedDict()


def collect(
    encoded: Iterable[Encoded], max_length: int, overflow: str, ledger: Ledger, *, strict: bool
) -> Samples:
    """Gather encoded blocks into samples of at most ``max_length`` tokens.

    Args:
        encoded: blocks, in order.
        max_length: longest sample in tokens.
        overflow: ``drop``, ``cut-left``, ``cut-right``, ``split`` or ``error``.
        ledger: told what became of every row.
        strict: the first row that cannot be used is an error.

    Raises:
        DataError: a row cannot be used and ``strict`` is set, or is too long with ``error``.
    """
    samples = Samples()
    columns: list[tuple[Array, ...]] = []
    for part in encoded:
        account = ledger.account(part.block.source.name)
        account.rows += len(part.block.lines)
        for row, why in part.failures:
            place = part.block.source.place(part.block.lines[row])
            if strict:
                raise DataError(f"{place}: {why}")
            account.fail(place, why)
        lines = np.asarray(part.block.lines, np.int32)
        block = _Block(part.path, part.block.source, lines, max_length)
        samples.blocks.append(block)
        number = len(samples.blocks) - 1
        columns.append(_fit(samples, number, max_length, overflow, ledger))
    if columns:
        arrays = [np.concatenate(column) for column in zip(*columns, strict=True)]
        samples = Samples(samples.blocks, *arrays)
    ledger.check()
    return samples


def _fit(
    samples: Samples, number: int, max_length: int, overflow: str, ledger: Ledger
) -> tuple[Array, ...]:
    """The samples of one block, as columns: block, index, start, stop, learned."""
    tokens, block = samples._tokens(number), samples.blocks[number]
    row_S, length_S, learned = tokens.row, tokens.length_S, tokens.learned_S
    long = tokens.longest_S > max_length
    index, start, stop = np.arange(len(length_S)), np.zeros_like(length_S), length_S
    if long.any():
        if overflow == "error":
            raise DataError(_too_long(block, tokens, int(np.argmax(long)), max_length))
        index, start, stop, learned = _shorten(tokens, long, max_length, overflow)
    keep = learned > 0
    kept, cut = np.zeros(len(block.lines), bool), np.zeros(len(block.lines), bool)
    kept[row_S[index[keep]]] = True
    cut[row_S[long]] = True  # also a row that lost one of its samples
    cut &= kept
    account = ledger.account(block.source.name)
    account.kept += int((kept & ~cut).sum())
    if overflow == "split":
        account.split += int(cut.sum())
    else:
        account.cut += int(cut.sum())
    account.samples += int(keep.sum())
    too_long = set(row_S[long].tolist())
    with_media = set(row_S[long & tokens.has_media_S].tolist())
    for row in sorted(set(row_S.tolist()) - set(np.flatnonzero(kept).tolist())):
        why = "nothing to learn"
        if row in too_long:
            whole = overflow == "drop" or row in with_media
            why = "too long" if whole else "nothing to learn once cut"
        account.dropped[why] += 1
        account.note(f"{block.source.place(int(block.lines[row]))}: {why}")
    chosen = (index, start, stop, learned)
    return (
        np.full(int(keep.sum()), number, np.int32),
        *(column[keep].astype(np.int32) for column in chosen),
    )


def _too_long(block: _Block, tokens: _Tokens, i: int, max_length: int) -> str:
    place = block.source.place(int(block.lines[tokens.row[i]]))
    return (
        f"{place}: {tokens.longest_S[i]} tokens, more than max_length {max_length}; "
        "raise it, or set --truncation_strategy drop"
    )


def _shorten(
    tokens: _Tokens, long: Array, max_length: int, overflow: str
) -> tuple[Array, Array, Array, Array]:
    """Columns index, start, stop, learned with the too long samples cut, split or left out."""
    pieces: list[tuple[int, int, int, int]] = []
    length_S, learned_S, whole_S = tokens.length_S, tokens.learned_S, tokens.has_media_S
    for i in range(len(length_S)):
        if not long[i]:
            pieces.append((i, 0, int(length_S[i]), int(learned_S[i])))
            continue
        if whole_S[i]:  # media are not cut in two
            continue
        weights, lengths = tokens.weights_of(i), tokens.parts_of(i)
        if len(lengths):
            pieces += _shorten_all(i, lengths, weights, max_length, overflow)
            continue
        for start, stop in _pieces(int(length_S[i]), max_length, overflow):
            pieces.append((i, start, stop, int((weights[start + 1 : stop] > 0).sum())))
    columns = np.array(pieces, dtype=np.int64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def _pieces(length: int, most: int, overflow: str) -> list[tuple[int, int]]:
    """Where a too long sample is cut; pieces overlap by one token, so that each is predicted."""
    if overflow == "cut-left":
        return [(length - most, length)]
    if overflow == "cut-right":
        return [(0, most)]
    if overflow == "split":
        return [(at, min(at + most, length)) for at in range(0, length - 1, most - 1)]
    return []


def _shorten_all(
    i: int, lengths: Array, weights: Array, most: int, overflow: str
) -> list[tuple[int, int, int, int]]:
    """A sample of several sequences, each of them cut; kept where all have something to learn.

    What its columns start and stop leave out is as much as is cut, on the side where it is cut.
    """
    if overflow not in ("cut-left", "cut-right"):
        return []
    left = overflow == "cut-left"
    spans = _spans(lengths, most, left=left)
    counts = [int((weights[a + 1 : b] > 0).sum()) for a, b in spans]
    kept, whole = sum(b - a for a, b in spans), int(lengths.sum())
    start, stop = (whole - kept, whole) if left else (0, kept)
    return [(i, start, stop, sum(counts) if min(counts) else 0)]


def _spans(lengths: Array, most: int, *, left: bool) -> list[tuple[int, int]]:
    """What is left of each of several sequences, as places in the tokens of their sample."""
    stops = np.cumsum(lengths).tolist()
    spans = []
    for stop, length in zip(stops, lengths.tolist(), strict=True):
        less = max(0, length - most)
        spans.append((stop - length + less * left, stop - less * (not left)))
    return spans
