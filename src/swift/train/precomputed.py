"""What a reference says of all samples, asked once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from swift.config.alignment import DpoSection, RlhfSection
from swift.data.prepare import Prepared
from swift.data.sample import Samples
from swift.hub.locate import cache_dir, find_adapter
from swift.models.kernels import fast_linear
from swift.train.learner import Learner
from swift.train.memory import Beside
from swift.train.reference import reference_base, reference_bytes
from swift.train.session import Session

Array = np.ndarray[Any, Any]

_BLOCK = 256  # samples of a file


def ask_before(
    session: Session, section: RlhfSection, learner: Learner, data: Prepared
) -> Prepared:
    """The data with what the reference says of it; it is not asked any more, nor kept in memory.

    Files are named by samples and reference: a run that was broken off goes on, another one asks
    nothing. Processes share the work.
    """
    if not isinstance(section, DpoSection) or not section.precompute_ref_log_probs:
        return data
    stem = _stem(session, section)
    found = replace(
        data,
        train=_known(session, learner, data.train, stem),
        val=_known(session, learner, data.val, stem),
    )
    module: Any = learner.spread.module
    module.reference.forget()
    return found


def beside_of(session: Session, section: RlhfSection) -> Beside:
    """What the reference takes: while it learns, or before the start alone."""
    taken = reference_bytes(session, section)
    before = isinstance(section, DpoSection) and section.precompute_ref_log_probs
    return Beside(early=taken) if before else Beside(held=taken)


def _stem(session: Session, section: DpoSection) -> str:
    """All that decides what the reference says, beside the samples."""
    folders = [reference_base(session, section)]
    adapters = section.ref_adapters or ([] if section.ref_model else session.config.model.adapters)
    folders += [Path(find_adapter(name)) for name in adapters]
    files = [
        (file.name, status.st_size, status.st_mtime_ns)
        for folder in folders
        for file in sorted(folder.glob("*.safetensors"))
        for status in [file.stat()]
    ]
    return f"{[str(folder.absolute()) for folder in folders]}:{files}:{session.compute}"


def _known(session: Session, learner: Learner, samples: Samples, stem: str) -> Samples:
    """Samples with what the reference says of each."""
    if not len(samples):
        return samples
    name = hashlib.sha256(f"{stem}:{samples.fingerprint}".encode()).hexdigest()[:40]
    folder = cache_dir() / "reference" / name
    folder.mkdir(parents=True, exist_ok=True)
    world = session.mesh.world
    blocks = range(0, len(samples), _BLOCK)
    missing = [at for at in blocks if not (folder / f"{at}.npz").exists()]
    session.log(f"asking the reference about {len(samples):,} samples: {folder}")
    session.mesh.barrier()
    for at in missing[world.rank :: world.size]:
        indices = range(at, min(at + _BLOCK, len(samples)))
        answers = list(_answers(session, learner, [samples[i] for i in indices]))
        part = folder / f".{at}.{os.getpid()}.npz"
        np.savez(part, counts=[len(one) for one in answers], values=np.concatenate(answers))
        part.replace(folder / f"{at}.npz")
    session.mesh.barrier()
    counts, values = [], []
    for at in blocks:
        with np.load(folder / f"{at}.npz") as kept:
            counts.append(kept["counts"])
            values.append(kept["values"])
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return replace(samples, known=np.concatenate(values), known_at=starts)


def _answers(session: Session, learner: Learner, samples: list[Any]) -> Iterator[Array]:
    """The log-probabilities of the learned tokens of each sample."""
    module: Any = learner.spread.module
    size = session.config.train.eval_batch_size or session.config.train.batch_size
    for begin in range(0, len(samples), size):
        chosen = samples[begin : begin + size]
        batch = learner.collate(chosen)
        with fast_linear():
            logps_N = module.reference(batch.to(session.mesh.device)).cpu().numpy()
        sizes = [len(sample.sequences) for sample in chosen]
        sample_N = np.repeat(np.arange(len(chosen)), sizes)[batch.sequence_N.numpy()]
        yield from np.split(logps_N, np.searchsorted(sample_N, np.arange(1, len(chosen))))
