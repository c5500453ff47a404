"""A data section -> samples to train on, samples to evaluate on, and the ledger of every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from swift.chat.message import Kind
from swift.chat.render import RendererSpec
from swift.config.data import ConversationsSection
from swift.data.cached import cached_part, read_cached
from swift.data.encode import Encoded, EncodeSettings, encode, renderer_of
from swift.data.flow import Flow, lanes
from swift.data.interleave import interleave
from swift.data.ledger import Ledger
from swift.data.sample import Samples, collect
from swift.data.source import Block, Locate, Source, check_take, open_sources, read
from swift.errors import DataError

_PARTS = {"--dataset": "train", "--val_dataset": "val"}
"""The part of a folder of tokens that stands for what a flag names."""


@dataclass(frozen=True)
class Prepared:
    """What a run learns from and is judged by."""

    train: Samples
    val: Samples
    ledger: Ledger
    spec: RendererSpec  # of the renderer
    flow: Flow | None = None  # of rows that pass by; train are the first of them

    @property
    def kinds(self) -> frozenset[Kind]:
        """Of the media to learn from; of a stream: all that there may be."""
        if self.flow and self.spec.media:
            return renderer_of(self.spec).marks.kinds
        return self.train.kinds | self.val.kinds


@dataclass(frozen=True)
class Workshop:
    """What turns files into samples, the same for training and evaluation."""

    section: ConversationsSection
    spec: RendererSpec
    kind: str  # of the rows (see EncodeSettings)
    max_length: int
    cache: Path
    locate: Locate
    plugins: tuple[str, ...] = ()
    fresh: bool = False
    progress: Callable[[int], None] = lambda _: None

    def samples(
        self, names: list[str], flag: str, ledger: Ledger, cached: list[str] | None = None
    ) -> Samples:
        """Encode files and gather what fits.

        Args:
            names: of files.
            flag: that names them, for errors.
            ledger: told what became of every row.
            cached: folders of tokens, taken behind the files.
        """
        sources = open_sources(names, self.locate, flag=flag)
        for source in sources:
            ledger.account(source.name)  # also of one without rows
        encoded: Iterable[Encoded] = self.encoded(read(sources, self.section.seed))
        ready = [
            read_cached(cached_part(Path(folder).expanduser(), part), self.spec, self.settings, i)
            for part in [_PARTS[flag]]
            for i, folder in enumerate(cached or [], len(names))
        ]
        samples = self.collected(chain(encoded, *ready), ledger)
        return _repeat(samples, sources, self.section.seed)

    def encoded(self, blocks: Iterable[Block]) -> Iterator[Encoded]:
        """Tokens of blocks, kept in the cache."""
        section = self.section
        return encode(
            blocks,
            self.spec,
            self.settings,
            self.cache,
            processes=section.processes,
            fresh=self.fresh or not section.cache,
            progress=self.progress,
        )

    def collected(self, encoded: Iterable[Encoded], ledger: Ledger) -> Samples:
        """The samples of blocks that fit."""
        section = self.section
        return collect(encoded, self.max_length, section.overflow, ledger, strict=section.strict)

    def flow(self, names: list[str]) -> Flow:
        """The rows of files as they pass by."""
        section, sources = self.section, open_sources(names, self.locate)
        check_take(sources, "--dataset", "of a stream none comes back within an epoch")
        positions = section.packing_length or self.max_length

        def encoded(blocks: Iterable[Block], folder: Path) -> Iterator[Encoded]:
            files = (f"{number}.arrow" for number in count())
            return encode(
                blocks, self.spec, self.settings, folder, processes=section.processes, names=files
            )

        return Flow(
            lanes=lanes(sources, section.weights, section.shuffle_buffer),
            stopping=section.stopping,
            seed=section.seed,
            encode=encoded,
            collect=self.collected,
            settings=f"{self.spec.fingerprint}:{self.settings}:{self.max_length}:"
            f"{section.overflow}:{section.shuffle_buffer}",
            window=positions if section.packing else None,
        )

    @property
    def settings(self) -> EncodeSettings:
        """What decides the tokens of a row."""
        section = self.section
        names = (("{{NAME}}", section.model_name), ("{{AUTHOR}}", section.model_author))
        return EncodeSettings(
            kind=self.kind,
            learn=section.learn,
            system=section.system,
            columns=tuple(sorted(section.columns.items())),
            names=tuple((mark, tuple(choice)) for mark, choice in names if choice),
            plugins=self.plugins,
        )


def prepare(workshop: Workshop, train: list[str]) -> Prepared:
    """Samples for training and evaluation.

    Raises:
        ConfigError: files that do not exist.
        DataError: a file cannot be read, or nothing usable is left.
    """
    section = workshop.section
    ledger, flow = Ledger(), None
    if section.streaming:
        flow = workshop.flow(train)
        samples, ledger = flow.first()
    else:
        samples = workshop.samples(train, "--dataset", ledger, section.cached)
    if not len(samples):
        raise DataError(_nothing(ledger))
    if section.val or section.cached_val:
        apart = Ledger()
        val = workshop.samples(section.val, "--val_dataset", apart, section.cached_val)
        if not len(val):
            raise DataError(f"--val_dataset: {_nothing(apart)}")
        ledger.add(apart)
    else:
        samples, val = _apart(samples, section)
    if section.weights and not flow:
        samples = _interleaved(samples, section, [*train, *section.cached])
    return Prepared(samples, val, ledger, workshop.spec, flow)


def _apart(samples: Samples, section: ConversationsSection) -> tuple[Samples, Samples]:
    """Samples to train on, and the share of them to evaluate on."""
    if not section.split:
        return samples, Samples()
    order = np.random.default_rng(section.seed).permutation(len(samples))
    count = max(1, round(len(samples) * section.split))
    if count == len(samples):
        raise DataError(f"--split_dataset_ratio {section.split} leaves nothing to train on")
    return samples.select(np.sort(order[count:])), samples.select(np.sort(order[:count]))


def _interleaved(samples: Samples, section: ConversationsSection, names: list[str]) -> Samples:
    """Samples in the order in which their data sets are drawn."""
    dataset_B = np.array([block.source.dataset for block in samples.blocks])
    dataset_S = dataset_B[samples.block_S]
    own = [np.flatnonzero(dataset_S == dataset) for dataset in range(len(names))]
    for name, indices in zip(names, own, strict=True):
        if not len(indices):
            raise DataError(f"--interleave_prob: {name} has no sample to draw")
    if section.shuffle:  # so that it is not always the beginning that is taken of a long one
        random = np.random.default_rng(section.seed)
        own = [random.permutation(indices) for indices in own]
    sizes = [len(indices) for indices in own]
    drawn, number = interleave(sizes, section.weights, section.stopping, section.seed)
    chosen = np.zeros(len(drawn), np.int64)
    for dataset, indices in enumerate(own):
        mine = drawn == dataset
        chosen[mine] = indices[number[mine]]
    return samples.select(chosen)


def _nothing(ledger: Ledger) -> str:
    rows = sum(account.rows for account in ledger.accounts.values())
    if not rows:
        return f"no rows in {', '.join(ledger.accounts)}"
    shown = "\n  ".join(ledger.failures[:5])
    more = f"\n  ... and {rows - 5} more" if rows > 5 else ""
    return f"none of the {rows} rows can be used:\n  {shown}{more}"


def _repeat(samples: Samples, sources: list[Source], seed: int) -> Samples:
    """``name#N`` with N above the rows that are there: samples come back until there are enough."""
    rows: Counter[int] = Counter()
    for block in samples.blocks:
        rows[block.source.dataset] += len(block.lines)
    taken = {source.dataset: source.take for source in sources}
    extra: list[np.ndarray[Any, Any]] = []
    for dataset, take in taken.items():
        have = rows[dataset]
        if take is None or not have or take <= have:
            continue
        mine = [i for i, block in enumerate(samples.blocks) if block.source.dataset == dataset]
        own = np.flatnonzero(np.isin(samples.block_S, mine))
        times, rest = divmod(take - have, have)
        extra += [own] * times
        part = round(len(own) * rest / have)
        extra.append(np.sort(np.random.default_rng(seed).choice(own, part, replace=False)))
    if not extra:
        return samples
    return samples.select(np.concatenate([np.arange(len(samples)), *extra]))
