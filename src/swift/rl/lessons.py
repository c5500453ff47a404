"""What a student is taught with: the answers of rows, or those that it or its teacher writes.

A step is of one kind. Which, and what is written in it, depends on the seed, the step and the row
alone, so that a resumed run is the same, and one on several processes too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swift.config.distill import GkdSection
from swift.config.rollout import RolloutSection
from swift.data.batch import Batch
from swift.data.sample import Sample
from swift.data.stream import Collate
from swift.infer.engine import Engine, Request, Sampling
from swift.rl.rollout import seed_of
from swift.rl.tutor import Told, Tutor
from swift.train.distill import TaughtBatch

Samples = list[Sample]


@dataclass(frozen=True)
class AsRows(Collate):
    """Leaves the samples of a micro-batch as they are, for they may get other answers."""

    def __call__(self, samples: list[Sample]) -> Any:
        """The samples."""
        return samples


@dataclass(frozen=True)
class Writer:
    """One who writes answers."""

    engine: Engine
    name: str
    foreign: Mapping[int, float]  # tokens that the other one has not, as a bias that forbids them


@dataclass
class Lessons:
    """The micro-batches of a run, made when they are needed."""

    section: GkdSection
    drawn: RolloutSection
    stops: tuple[int, ...]  # tokens that end an answer
    student: Writer | None  # None: it does not write
    teacher: Writer | None
    tutor: Tutor | None  # a teacher behind HTTP
    lay: Callable[[Samples], Batch]
    decode: Callable[[list[int]], str]
    seed: int
    record: Path | None = None  # completions.jsonl of this process
    unanswered: int = field(default=0, init=False)  # prompts that left no room for an answer

    def windows(self, plain: Iterable[list[Samples]], first: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step from ``first`` on; the weights are those of that moment.

        Args:
            plain: the samples of the same micro-batches.
            first: the step to begin with (counted from 0).
        """
        for step, window in enumerate(plain, first):
            writer = self._writer(step)
            if writer is not None:
                window = self._written(window, writer, step)
            yield self._laid(window, own=writer is not None and writer is self.student)

    def evaluation(self, plain: Iterable[list[Samples]]) -> Iterator[list[Batch]]:
        """Micro-batches of the rows' own answers."""
        for window in plain:
            yield self._laid(window, own=False)

    def _writer(self, step: int) -> Writer | None:
        """Who writes the answers of a step; None: they are those of the rows."""
        share = seed_of(self.seed, step) / (1 << 56)
        if share < self.section.lmbda:
            return self.student
        return self.teacher if self.section.seq_kd else None

    def _written(self, window: Sequence[Samples], writer: Writer, step: int) -> list[Samples]:
        """The same samples with other answers behind their prompts."""
        samples = [sample for part in window for sample in part]
        prompts = [sample.tokens[: asked_of(sample)].tolist() for sample in samples]
        most = writer.engine.context
        asked = [i for i, p in enumerate(prompts) if p and (most is None or len(p) < most)]
        self.unanswered += len(samples) - len(asked)
        size = self.drawn.batch_size or len(asked) or 1
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            requests = [self._request(writer, prompts[i], samples[i], step) for i in part]
            for i, completion in zip(part, writer.engine.generate(requests), strict=True):
                samples[i] = _answered(samples[i], completion.tokens)
        if self.record is not None:
            self._write(samples, writer.name, step)
        rest = iter(samples)
        return [[next(rest) for _ in part] for part in window]

    def _request(self, writer: Writer, prompt: list[int], sample: Sample, step: int) -> Request:
        s, place = self.drawn, zlib.crc32(sample.place.encode())
        sampling = Sampling(
            s.max_completion_length, s.temperature, s.top_p, s.top_k, s.min_p,
            stop_ids=self.stops, stop=tuple(s.stop), logit_bias=writer.foreign,
            seed=seed_of(self.seed, step, place),
        )  # fmt: skip
        return Request(prompt, sampling, sample.media)

    def _laid(self, window: Sequence[Samples], *, own: bool) -> list[Batch]:
        laid = [self.lay(part) for part in window]
        if self.tutor is None:
            return [taught(batch, own) for batch in laid]
        said = self.tutor([s for part in window for s in part])
        made: list[Batch] = []
        at = 0
        for part, batch in zip(window, laid, strict=True):
            made.append(taught(batch, own, said[at : at + len(part)]))
            at += len(part)
        return made

    def _write(self, samples: Samples, by: str, step: int) -> None:
        assert self.record is not None
        with self.record.open("a", encoding="utf-8") as file:
            for sample in samples:
                text = self.decode(sample.tokens[asked_of(sample) :].tolist())
                line = {"step": step + 1, "place": sample.place, "by": by, "completion": text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def asked_of(sample: Sample) -> int:
    """Tokens before the last answer: where the last run of learned tokens begins."""
    learned_L = sample.weights > 0
    begins = np.flatnonzero(learned_L[1:] & ~learned_L[:-1])
    return int(begins[-1]) + 1 if len(begins) else 0


def _answered(sample: Sample, tokens: list[int]) -> Sample:
    """A sample with another answer, all of which is learned."""
    lead = asked_of(sample)
    return replace(
        sample,
        tokens=np.concatenate([sample.tokens[:lead], np.array(tokens, np.int32)]),
        weights=np.concatenate([np.zeros(lead, np.float32), np.ones(len(tokens), np.float32)]),
    )


def taught(plain: Batch, own: bool, said: Sequence[Told] | None = None) -> TaughtBatch:
    """A batch that says who wrote it, and what a tutor told of its samples, in their order."""
    known = {f.name: getattr(plain, f.name) for f in fields(Batch)}
    columns: dict[str, Any] = {}
    if said is not None:
        nothing = Told(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64))
        parts = list(said) or [nothing]  # a process may have no rows at the end of an epoch
        columns["told_NK"] = torch.cat([one.logprobs for one in parts])
        columns["ids_NK"] = torch.cat([one.ids for one in parts])
    return TaughtBatch(**known, own=own, **columns)
