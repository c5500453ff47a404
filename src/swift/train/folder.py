"""The folder of a run: where a new one goes, which one goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from swift.config.runs import TrainingConfig
from swift.errors import CheckpointError
from swift.train.checkpoint import latest, sweep

_VERSION = re.compile(r"v(\d+)")


def output_of(config: TrainingConfig) -> Path:
    """The folder that a configuration asks for."""
    if config.output is not None:
        return Path(config.output).expanduser()
    name = config.model.path.rstrip("/").removeprefix("package:")
    command = getattr(config, "command", "run")
    return Path("output") / f"{Path(name).name.removesuffix('.gguf')}-{command}"


def open_run(config: TrainingConfig) -> tuple[Path, Path | None]:
    """The folder of this run, and the checkpoint that it goes on from.

    A new run never writes over another: it goes to ``v1``, ``v2`` ... inside a folder with one.

    Raises:
        CheckpointError: the checkpoint asked for is not one that can be resumed.
    """
    output = output_of(config)
    resume = config.train.resume
    if isinstance(resume, str):
        checkpoint = Path(resume)
        if not (checkpoint / "trainer/state.json").is_file():
            checkpoint = latest(Path(resume)) or checkpoint
        if not (checkpoint / "trainer/state.json").is_file():
            raise CheckpointError(f"--resume: {resume} is no checkpoint that a run can go on from")
        sweep(checkpoint.parent)
        return checkpoint.parent, checkpoint
    if resume:
        for folder in sorted(_versions(output), key=_number, reverse=True):
            if (folder / "config.yaml").is_file():
                sweep(folder)
                return folder, latest(folder)
    return _new(output), None


def _versions(output: Path) -> list[Path]:
    inside = output.iterdir() if output.is_dir() else ()
    return [output, *(path for path in inside if _VERSION.fullmatch(path.name))]


def _number(folder: Path) -> int:
    match = _VERSION.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _new(output: Path) -> Path:
    """Make the folder. Two runs that start at once get different ones: only one can make the file
    or folder that takes a place.
    """
    output.mkdir(parents=True, exist_ok=True)
    try:
        (output / "config.yaml").touch(exist_ok=False)
        return output
    except FileExistsError:
        number = 1 + max(_number(folder) for folder in _versions(output))
    while True:
        try:
            (output / f"v{number}").mkdir()
            return output / f"v{number}"
        except FileExistsError:
            number += 1


def dump_config(config: TrainingConfig) -> str:
    """The resolved configuration as YAML that runs again: ``swift sft config.yaml``."""
    values: dict[str, Any] = config.model_dump(mode="json")
    values["train"].pop("resume")
    values.pop("dry_run")
    return yaml.safe_dump(
        {"command": values.pop("command"), **values}, sort_keys=False, allow_unicode=True
    )
