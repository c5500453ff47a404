"""A data section -> samples to train on, samples to evaluate on, and the ledger of every row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swift.chat.render import RendererSpec
from swift.config.data import DataSection
from swift.data.encode import EncodeSettings, encode
from swift.data.ledger import Ledger
from swift.data.sample import Samples, collect
from swift.data.source import Source, blocks, open_sources
from swift.errors import DataError


@dataclass(frozen=True)
class Prepared:
    """What a run learns from and is judged by."""

    train: Samples
    val: Samples
    ledger: Ledger


@dataclass(frozen=True)
class Workshop:
    """What turns files into samples, the same for training and evaluation."""

    section: DataSection
    spec: RendererSpec
    kind: Literal["chat", "text"]
    max_length: int
    cache: Path
    locate: Callable[[str], Path]
    plugins: tuple[str, ...] = ()
    fresh: bool = False
    progress: Callable[[int], None] = lambda _: None

    def samples(self, names: list[str], flag: str, ledger: Ledger) -> Samples:
        """Encode files and gather what fits."""
        section = self.section
        sources = open_sources(names, self.locate, flag=flag)
        for source in sources:
            ledger.account(source.name)  # also of one without rows
        encoded = encode(
            (block for source in sources for block in blocks(source, section.seed)),
            self.spec,
            self._settings(),
            self.cache,
            processes=section.processes,
            fresh=self.fresh or not section.cache,
            progress=self.progress,
        )
        samples = collect(encoded, self.max_length, section.overflow, ledger, strict=section.strict)
        return _repeat(samples, sources, section.seed)

    def _settings(self) -> EncodeSettings:
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
    ledger = Ledger()
    samples = workshop.samples(train, "--dataset", ledger)
    if not len(samples):
        raise DataError(_nothing(ledger))
    if section.val:
        apart = Ledger()
        val = workshop.samples(section.val, "--val_dataset", apart)
        if not len(val):
            raise DataError(f"--val_dataset: {_nothing(apart)}")
        ledger.add(apart)
        return Prepared(samples, val, ledger)
    if not section.split:
        return Prepared(samples, Samples(), ledger)
    order = np.random.default_rng(section.seed).permutation(len(samples))
    count = max(1, round(len(samples) * section.split))
    if count == len(samples):
        raise DataError(f"--split_dataset_ratio {section.split} leaves nothing to train on")
    return Prepared(
        samples.select(np.sort(order[count:])), samples.select(np.sort(order[:count])), ledger
    )


def _nothing(ledger: Ledger) -> str:
    rows = sum(account.rows for account in ledger.accounts.values())
    if not rows:
        return f"no rows in {', '.join(ledger.accounts)}"
    shown = "\n  ".join(ledger.failures[:5])
    more = f"\n  ... and {rows - 5} more" if rows > 5 else ""
    return f"none of the {rows} rows can be used:\n  {shown}{more}"


def _repeat(samples: Samples, sources: list[Source], seed: int) -> Samples:
    """``name#N`` with N above the file's rows: its samples come back until there are enough."""
    rows: dict[Source, int] = {}
    for block in samples.blocks:
        rows[block.source] = rows.get(block.source, 0) + len(block.lines)
    extra: list[np.ndarray[Any, Any]] = []
    for source in sources:
        have = rows.get(source, 0)
        if source.take is None or not have or source.take <= have:
            continue
        mine = [i for i, block in enumerate(samples.blocks) if block.source == source]
        own = np.flatnonzero(np.isin(samples.block_S, mine))
        times, rest = divmod(source.take - have, have)
        extra += [own] * times
        part = round(len(own) * rest / have)
        extra.append(np.sort(np.random.default_rng(seed).choice(own, part, replace=False)))
    if not extra:
        return samples
    return samples.select(np.concatenate([np.arange(len(samples)), *extra]))
