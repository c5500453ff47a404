"""A run -> a folder, and back, to the bit.

``checkpoint-N`` holds the weights in the Hugging Face layout (or PEFT's, of an adapter), and in
``trainer/`` what only the run needs: optimizer, random numbers, counts. It is written aside and
renamed once complete, so every folder of that name is whole; an old one is renamed before it is
removed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_model as load_module
from safetensors.torch import save_file
from safetensors.torch import save_model as save_module
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from swift.chat.manifest import FILE
from swift.errors import CheckpointError
from swift.models.save import copy_beside, save_model
from swift.parallel.mesh import Mesh, whole
from swift.train.state import TrainState
from swift.tune.tuned import Tuned

_NAME = re.compile(r"checkpoint-(\d+)")


class Course(Protocol):
    """What a run goes on in beside the order of samples: rows that pass by, rounds of answers."""

    def as_dict(self) -> dict[str, Any]:
        """Where it stands, for JSON."""

    def go_on(self, record: dict[str, Any]) -> None:
        """Take up what ``as_dict`` gave."""


@dataclass(frozen=True)
class Keeper:
    """Writes and reads the checkpoints of one run."""

    folder: Path  # of the run
    base: Path  # the checkpoint that the model came from
    tuned: Tuned
    module: nn.Module  # as the optimizer knows the parameters
    optimizer: torch.optim.Optimizer
    mesh: Mesh
    compute: torch.dtype
    config: str  # config.yaml
    template: str | None  # the chat template, when it is not the checkpoint's own
    serving: str  # serving.json: what it must be served with
    order: dict[str, Any]  # what decides the order of samples
    keep: int | None
    only_model: bool
    flow: Course | None = None
    beside: Mapping[str, nn.Module] = field(default_factory=dict)  # learn too, and are not served

    def save(self, state: TrainState) -> None:
        """Write ``checkpoint-<step>`` and remove old ones.

        Raises:
            CheckpointError: it cannot be written; those before are untouched.
        """
        target = self.folder / f"checkpoint-{state.step}"
        part = self.folder / f".checkpoint-{state.step}.part"
        problem = ""
        try:
            if self.mesh.world.is_main:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            self.mesh.barrier()
            self._write(part, state)
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            problem = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        failed = self.mesh.sum([float(bool(problem))])[0]
        if failed:
            if self.mesh.world.is_main:
                shutil.rmtree(part, ignore_errors=True)
            raise CheckpointError(_cannot_write(target, problem, self.folder))
        if self.mesh.world.is_main:
            _sync(part)
            _remove(target)
            part.rename(target)
            self._prune(state)
        self.mesh.barrier()

    def _write(self, part: Path, state: TrainState) -> None:
        weights = self._weights()
        if self.mesh.world.is_main:
            self._write_weights(part, weights)
            copy_beside(self.base, part)
            if self.template is not None:
                (part / "chat_template.jinja").write_text(self.template, encoding="utf-8")
            (part / "config.yaml").write_text(self.config, encoding="utf-8")
            (part / FILE).write_text(self.serving, encoding="utf-8")
        del weights
        if self.only_model:
            return
        inner = part / "trainer"
        inner.mkdir(exist_ok=True)
        save_parts(
            {"optimizer": get_optimizer_state_dict(self.module, self.optimizer)},
            storage_writer=FileSystemWriter(inner / "optimizer"),
            no_dist=self.mesh.devices is None,
        )
        torch.save(_random_state(), inner / f"random-{self.mesh.world.rank}.pt")
        course = self.flow.as_dict() if self.flow else None  # its processes may have to confer
        if self.mesh.world.is_main:
            for name, module in self.beside.items():
                save_module(module, str(inner / f"{name}.safetensors"))
            record = {"state": state.as_dict(), "order": self.order}
            if course:
                record["flow"] = course
            (inner / "state.json").write_text(json.dumps(record, indent=2), encoding="utf-8")

    def _weights(self) -> dict[str, torch.Tensor]:
        """Weights on the first process, gathered one by one; elsewhere nothing is kept.

        Weights that are one (tied embeddings) stay one, so that they are written once.
        """
        source: nn.Module = self.tuned.peft or self.tuned.model
        gathered: dict[int, torch.Tensor] = {}
        kept = {}
        for name, tensor in source.state_dict(keep_vars=True).items():
            if self.tuned.peft is not None and not tensor.requires_grad:
                continue
            if id(tensor) not in gathered:
                full = whole(tensor.detach())
                gathered[id(tensor)] = full.cpu() if self.mesh.world.is_main else full.new_empty(0)
            kept[name] = gathered[id(tensor)]
        return kept if self.mesh.world.is_main else {}

    def _write_weights(self, part: Path, weights: dict[str, torch.Tensor]) -> None:
        if self.tuned.peft is not None:
            adapter = get_peft_model_state_dict(
                self.tuned.peft, state_dict=weights, save_embedding_layers=False
            )
            compact = {name: tensor.contiguous() for name, tensor in adapter.items()}
            save_file(compact, part / "adapter_model.safetensors", metadata={"format": "pt"})
            self.tuned.peft.peft_config["default"].save_pretrained(str(part))
            return
        if self.only_model:
            weights = {name: tensor.to(self.compute) for name, tensor in weights.items()}
        save_model(self.tuned.model, part, dtype=self.compute, weights=weights)

    def _prune(self, state: TrainState) -> None:
        if self.keep is None:
            return
        steps = sorted(step for step, _ in checkpoints(self.folder))
        stay = {*steps[-self.keep :], state.step, state.best_step}
        for step in steps:
            if step not in stay:
                _remove(self.folder / f"checkpoint-{step}")

    def restore(self, checkpoint: Path) -> TrainState:
        """Take up optimizer, random numbers and counts; weights were loaded with the model.

        Raises:
            CheckpointError: it belongs to other data, or is damaged.
        """
        inner = checkpoint / "trainer"
        record = json.loads((inner / "state.json").read_text(encoding="utf-8"))
        _same_order(record["order"], self.order, checkpoint)
        loaded = {"optimizer": get_optimizer_state_dict(self.module, self.optimizer)}
        try:
            load_parts(
                loaded,
                storage_reader=FileSystemReader(inner / "optimizer"),
                no_dist=self.mesh.devices is None,
            )
        except (OSError, RuntimeError, CheckpointException) as error:
            raise CheckpointError(
                f"{checkpoint}: the optimizer's state is damaged: {error}"
            ) from None
        set_optimizer_state_dict(self.module, self.optimizer, optim_state_dict=loaded["optimizer"])
        for name, module in self.beside.items():
            _read_beside(module, inner / f"{name}.safetensors")
        mine = inner / f"random-{self.mesh.world.rank}.pt"
        if mine.exists():
            _set_random_state(torch.load(mine, weights_only=False))
        if self.flow:
            self.flow.go_on(record["flow"])
        return TrainState(**record["state"])


def _read_beside(module: nn.Module, file: Path) -> None:
    try:
        load_module(module, file)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{file} is absent or damaged: {error}") from None


def checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """The complete checkpoints of a run: (step, folder)."""
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            yield int(match[1]), path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run that it can go on from."""
    found = [
        (n, path) for n, path in checkpoints(folder) if (path / "trainer/state.json").is_file()
    ]
    return max(found)[1] if found else None


def sweep(folder: Path) -> None:
    """Remove what a kill left half written or half removed."""
    for path in folder.glob(".checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a checkpoint; at no time is there half of one under its name."""
    if path.exists():
        trash = path.with_name(f".{path.name}.old")
        shutil.rmtree(trash, ignore_errors=True)
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have every file on the disk before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _same_order(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    changed = [
        f"{name}: was {before.get(name)}, is {now.get(name)}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise CheckpointError(
            f"{checkpoint} cannot be resumed, because this run would see other samples "
            f"({'; '.join(changed)}). Restore these settings, or start a new run from the weights "
            "(--model or --adapters)"
        )


def _cannot_write(target: Path, problem: str, folder: Path) -> str:
    free = shutil.disk_usage(folder).free / 2**30
    last = latest(folder)
    kept = f"{last} is complete: make room and add --resume true" if last else "none is there yet"
    why = problem or "another process failed"
    return f"{target} cannot be written ({why}); {free:.2f} GiB are free. {kept}"
