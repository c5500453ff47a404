"""Queries -> answers -> what they are worth -> rows to learn from.

Answers go into a journal as they come. A run that was ended goes on behind what the journal holds,
and the rows are made of the journal, so that judging anew asks nobody.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from swift.chat.message import Conversation
from swift.config.sample import SampleConfig
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import formats
from swift.data.formats.meaning import Prompt, kind_of
from swift.data.source import Source, read
from swift.errors import DataError
from swift.infer.batch import written
from swift.infer.load import answers_of, settled
from swift.infer.remote import RemoteTalker
from swift.infer.talk import Answers, Talker
from swift.observe.log import Log
from swift.rl.best import choose, rows_of
from swift.rl.court import Court
from swift.rl.rollout import seed_of

_NOT_BESIDE = {"response", "label", "rejected_response", "rejected_messages", "id", "score"}
"""Columns that would mean something else beside an answer."""


@dataclass(frozen=True)
class Query:
    """A row without its answer."""

    id: str  # of what is asked: equal queries have equal ones
    place: str
    asked: Conversation
    beside: Mapping[str, Any]  # its further columns

    @property
    def before(self) -> list[Mapping[str, Any]]:
        """Its messages, as a row holds them."""
        return [written(message) for message in self.asked.messages]


def queries(
    sources: Sequence[Source],
    config: SampleConfig,
    counts: Counter[str],
    say: Callable[[str], None],
) -> Iterator[Query]:
    """What is asked, each once; rows that cannot be used are counted."""
    settings = EncodeSettings.of("prompt", config.data, config.external_plugins)
    known, seen = formats("prompt"), set[str]()
    part, parts = config.sample.data_range or (0, 1)
    number = -1
    for block in read(sources, config.data.seed):
        for line, raw in zip(block.lines, block.rows, strict=True):
            number += 1
            if number % parts != part:
                continue
            counts["rows"] += 1
            place = block.source.place(line)
            try:
                meaning = read_row(raw, settings, known, block.source.path.parent)
                if not isinstance(meaning, Prompt):
                    raise DataError(f"a {kind_of(meaning)} is no query")
            except (DataError, RecursionError) as error:
                if config.data.strict:
                    raise DataError(f"{place}: {error}") from None
                counts["unusable"] += 1
                say(f"  {place}: {error}")
                continue
            query = Query(id_of(meaning.conversation), place, meaning.conversation, meaning.extra)
            if query.id in seen:
                counts["asked before"] += 1
                continue
            seen.add(query.id)
            yield query


def id_of(asked: Conversation) -> str:
    """Equal for equal queries, in every run."""
    said = [written(message) for message in asked.messages]
    text = json.dumps([said, list(asked.tools), dict(asked.template_kwargs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class Journal:
    """Answers by query, on disk as they come."""

    path: Path
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """What a journal holds; a line that a kill cut short is taken away."""
        found = cls(path)
        if not path.is_file():
            return found
        whole = b"".join(x for x in path.read_bytes().splitlines(True) if x.endswith(b"\n"))
        for line in whole.splitlines():
            entry = json.loads(line)
            found.answers[entry["id"]] = entry["answers"]
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(whole)
        part.replace(path)
        return found

    def add(self, found: Mapping[str, list[dict[str, Any]]]) -> None:
        """Keep the answers to some queries."""
        self.answers.update(found)
        lines = [{"id": id, "answers": answers} for id, answers in found.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def cached(paths: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The answers that rows of an earlier ``swift sample`` end with, by query.

    Raises:
        DataError: a file is not there, or holds other rows.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            for row in rows:
                found.setdefault(row["id"], []).append(row["messages"][-1])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"--cache_files: {path}: no rows of swift sample ({error!r})") from None
    return found


def ask_all(
    config: SampleConfig,
    missing: Sequence[Query],
    journal: Journal,
    counts: Counter[str],
    device: torch.device,
    log: Log,
) -> None:
    """Ask queries, batch by batch, into a journal. What was loaded or started for it ends here."""
    section = config.sample
    model, _ = settled(config)
    talker = answers_of(config, model, device, log)
    if isinstance(talker, RemoteTalker):
        address = replace(talker.address, at_once=section.concurrency)
        talker = replace(talker, address=address)
    seed = config.infer.seed
    if seed is None and isinstance(talker, Talker):  # a server of others may know no seeds
        seed = 42
    begun, size = time.perf_counter(), section.num_sampling_batch_size
    try:
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            journal.add(ask(talker, batch, section.num_return_sequences, seed, counts, log))
            done = start + len(batch)
            speed = done * section.num_return_sequences / (time.perf_counter() - begun)
            log(f"  {done:,} of {len(missing):,} queries ({speed:.1f} answers/s)")
    finally:
        if isinstance(talker, Talker):
            engine: Any = talker.engine  # one that serves
            engine.close()


def ask(
    talker: Answers,
    batch: Sequence[Query],
    count: int,
    seed: int | None,
    counts: Counter[str],
    say: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    """The answers to some queries, ``count`` to each.

    Args:
        talker: answers.
        batch: what is asked, at once.
        count: answers to each.
        seed: that all seeds are made of; None: the engine's own.
        counts: of what goes wrong.
        say: told of a query that cannot be answered; such ones have no answers.
    """
    try:
        return _ask(talker, batch, count, seed)
    except DataError as error:
        if len(batch) == 1:
            counts["cannot be asked"] += 1
            say(f"  {batch[0].place}: {error}")
            return {batch[0].id: []}
    found: dict[str, list[dict[str, Any]]] = {}
    for query in batch:
        found |= ask(talker, [query], count, seed, counts, say)
    return found


def _ask(
    talker: Answers, batch: Sequence[Query], count: int, seed: int | None
) -> dict[str, list[dict[str, Any]]]:
    asked = [query.asked for query in batch for _ in range(count)]
    seeds = None
    if seed is not None:
        seeds = [seed_of(seed, int(q.id, 16), i) % 2**31 for q in batch for i in range(count)]
    found = [written(message) for message, _ in talker.answers(asked, seeds)]
    return {query.id: found[i * count : (i + 1) * count] for i, query in enumerate(batch)}


def write_rows(
    path: Path,
    asked: Sequence[Query],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    court: Court,
    config: SampleConfig,
    counts: Counter[str],
) -> None:
    """Judge all answers, and write the rows of those that are kept, whole or not at all."""
    section = config.sample
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for query in asked:
            if query.id not in answers:
                counts["not asked"] += 1
                continue
            drawn = court(query.asked, query.beside, answers[query.id])
            kept = choose(
                drawn, section.n_best_to_keep, least=section.prm_threshold,
                easy=section.easy_query_threshold,
            )  # fmt: skip
            counts["answers"] += len(drawn)
            counts["right answers"] += sum((answer.outcome or 0) > 0 for answer in drawn)
            counts["said again"] += kept.repeated
            counts[kept.why or "queries kept"] += 1
            beside = {k: v for k, v in query.beside.items() if k not in _NOT_BESIDE}
            if query.asked.tools:
                beside["tools"] = list(query.asked.tools)
            for row in rows_of(kept, query.before, {"id": query.id, **beside}):
                counts["rows written"] += 1
                counts["with a worse answer"] += "rejected_score" in row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(path)
