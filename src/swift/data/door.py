"""Rows and batches for scripts of one's own: the flow of a training run behind two names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from swift.chat.load import load_renderer
from swift.chat.message import Conversation
from swift.config.data import ConversationsSection
from swift.data.batch import Batch
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import formats
from swift.data.prepare import Workshop, prepare
from swift.data.readers import dump
from swift.data.source import Block, open_sources, read
from swift.data.stream import Collate, Order, group, steps
from swift.errors import ConfigError, DataError
from swift.hub.locate import cache_dir, locate_dataset

_LONGEST = 32_768


class Rows(Sequence[Conversation]):
    """The conversations of a data set, each understood when it is asked for.

    The text of all rows is in memory; for data that does not fit there is ``swift sft``.
    """

    def __init__(self, names: Sequence[str], hub: str = "auto", seed: int = 42) -> None:
        self.names = list(names)
        self.hub = hub
        self.seed = seed
        self._settings = EncodeSettings("chat")
        self._known = formats()
        sources = open_sources(self.names, partial(locate_dataset, hub=hub))
        self._rows = [(block, i) for block in read(sources, seed) for i in range(len(block.rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(len(self)))]
        block, row = self._rows[i]
        try:
            meaning = read_row(block.rows[row], self._settings, self._known, _folder_of(block))
        except DataError as error:
            raise DataError(f"{self.place(i)}: {error}") from None
        if not isinstance(meaning, Conversation):
            raise DataError(f"{self.place(i)}: not a conversation")
        return meaning

    def place(self, i: int) -> str:
        """The file and line of a row."""
        block, row = self._rows[i]
        return block.source.place(block.lines[row])


def _folder_of(block: Block) -> Path:
    return block.source.path.parent.absolute()


def load_dataset(*names: str, hub: str = "auto", seed: int = 42) -> Rows:
    """The conversations of data sets, as ``--dataset`` names them.

    Args:
        names: files, folders, patterns, short names (``swift datasets`` lists them) or hub names,
            each perhaps with ``:subset/split`` and ``#rows``.
        hub: ``auto``, ``huggingface`` or ``modelscope``.
        seed: decides which rows ``#rows`` takes.

    Raises:
        ConfigError: there is none of that name.
        DataError: a file cannot be read; or, when it is asked for, a row cannot be understood.
    """
    return Rows(names, hub, seed)


class MultiModalDataLoader:
    """Batches of conversations with media, as a training run has them; each pass is an epoch.

    Attributes:
        samples: tokens of all rows that can be used.
        ledger: what became of every row.
        epoch: that the next pass takes; it decides the order.
    """

    def __init__(
        self,
        dataset: Rows | Sequence[Mapping[str, Any]] | str,
        image_processor: Any,
        tokenizer: Any,
        *,
        batch_size: int = 1,
        max_length: int | None = None,
        packing_length: int | None = None,
        shuffle: bool = True,
        seed: int = 42,
        workers: int = 0,
    ) -> None:
        """Turn rows into tokens; media are prepared batch by batch.

        Args:
            dataset: of :func:`load_dataset`, a name as it takes, or rows.
            image_processor: the checkpoint's processor (``AutoProcessor.from_pretrained``), or its
                image processor alone where the tokenizer was loaded from the checkpoint's folder.
            tokenizer: the checkpoint's, with its chat template.
            batch_size: samples, or packs, of a batch.
            max_length: of a sample, in tokens; longer ones are left out. Default: what the
                tokenizer says, at most 32,768.
            packing_length: lay samples end to end, up to so many positions. Default: one padded
                row for each sample.
            shuffle: another order in every epoch.
            seed: of that order.
            workers: processes that prepare batches ahead.

        Raises:
            ConfigError: the processor does not say how images are written.
            DataError: no row can be used.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="swift-loader-")
        place = Path(self._folder.name)
        _save(image_processor, tokenizer, place)
        names, hub = _names(dataset, place)
        length = max_length or min(tokenizer.model_max_length, _LONGEST)
        workshop = Workshop(
            section=ConversationsSection(train=names, seed=seed),
            spec=load_renderer(place).spec,
            kind="chat",
            max_length=length,
            cache=cache_dir() / "tokens",
            locate=partial(locate_dataset, hub=hub),
        )
        prepared = prepare(workshop, names)
        self.samples, self.ledger = prepared.train, prepared.ledger
        self.epoch = 0
        groups = group(self.samples, packing_length)
        self._order = Order(groups, batch_size, shuffle=shuffle, seed=seed)
        self._collate = Collate(packing_length is not None, spec=prepared.spec)
        self._workers = workers

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        first = self.epoch * len(self)
        self.epoch += 1
        for [batch] in steps(
            self.samples, self._order, first=first, last=first + len(self),
            collate=self._collate, workers=self._workers,
        ):  # fmt: skip
            yield batch


def _names(dataset: Any, place: Path) -> tuple[list[str], str]:
    """Names of data, and the hub that they are looked up on."""
    if isinstance(dataset, Rows):
        return dataset.names, dataset.hub
    if isinstance(dataset, str):
        return [dataset], "auto"
    file = place / "rows.jsonl"
    file.write_bytes(b"".join(dump(row) + b"\n" for row in dataset))
    return [str(file)], "auto"


def _save(image_processor: Any, tokenizer: Any, place: Path) -> None:
    """Write a checkpoint folder of processor and tokenizer, without a model."""
    processor = image_processor
    if not hasattr(processor, "tokenizer"):
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(tokenizer.name_or_path)
        except (OSError, ValueError):
            processor = None
        if not hasattr(processor, "tokenizer"):
            raise ConfigError(
                "image_processor: it does not say how images are written among tokens; give the "
                "checkpoint's whole processor, AutoProcessor.from_pretrained(...)"
            )
        processor.image_processor = image_processor
    processor.save_pretrained(place)
    tokenizer.save_pretrained(place)
