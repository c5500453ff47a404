"""A run that was, as its folder tells: its configuration, its processes, the data it saw."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swift.config.parse import read
from swift.config.runs import PtConfig, RlhfConfig, SftConfig, TrainingConfig
from swift.data.ledger import Ledger
from swift.errors import ConfigError, DataError
from swift.observe.sinks.jsonl import read as read_metrics
from swift.train.checkpoint import latest

_UNIT = re.compile("train/learned_(?!.*_per_s)(.*)")
_ROOTS: dict[str, type[TrainingConfig]] = {
    "sft": SftConfig,
    "pt": PtConfig,
    "rlhf": RlhfConfig,
}
_NUMBERS = ("rows", "kept", "cut", "split", "samples")  # of a ledger's account


@dataclass(frozen=True)
class Past:
    """What the folder of a run says of it."""

    folder: Path
    config: TrainingConfig
    processes: int | None  # None: there is no checkpoint that says so
    order: dict[str, Any] | None  # what decided the order of samples; None: as above
    ledger: dict[str, dict[str, Any]]  # empty: the run got not that far

    @property
    def kind(self) -> str:
        """What its rows were (see EncodeSettings)."""
        if isinstance(self.config, RlhfConfig):
            return self.config.rlhf.task
        return self.config.task.task if isinstance(self.config, SftConfig) else "text"

    def learned(self, step: int) -> tuple[str, float] | None:
        """What a step (counted from 1) counted, and how much of it it learned; None: that is only
        known of several steps together.
        """
        before = 0
        for line in read_metrics(self.folder / "metrics.jsonl"):
            units = [name for name in line if _UNIT.fullmatch(name)]
            if not units:
                continue
            if line["step"] == step and before == step - 1:
                return units[0].removeprefix("train/learned_"), line[units[0]]
            before = int(line["step"])
        return None


def open_past(folder: Path) -> Past:
    """Read the folder of a run.

    Raises:
        ConfigError: it is no such folder.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"--run: {folder} holds no config.yaml; give the folder of a run of swift sft, pt or "
            "rlhf"
        )
    command = _command(file)
    config, _ = read(_ROOTS[command], command, [str(file)])
    checkpoint = latest(folder)
    ledger = folder / "ledger.json"
    return Past(
        folder,
        config,
        len(list((checkpoint / "trainer").glob("random-*.pt"))) if checkpoint else None,
        _json(checkpoint / "trainer/state.json")["order"] if checkpoint else None,
        _json(ledger) if ledger.is_file() else {},
    )


def _command(file: Path) -> str:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    command = content.get("command") if isinstance(content, dict) else None
    if command not in _ROOTS:
        raise ConfigError(
            f"--run: {file} is not the configuration of a run of swift sft, pt or rlhf"
        )
    return str(command)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"--run: {file} is damaged: {error}") from None


def check_past(past: Past, order: dict[str, Any], ledger: Ledger) -> None:
    """See that the samples of today are those that the run saw.

    Args:
        past: the run.
        order: what decides the order of samples today.
        ledger: of the rows of today.

    Raises:
        DataError: they are not.
    """
    then = past.order
    changed = _changed(past.ledger, ledger)
    same = not changed if then is None else then["samples"] == order["samples"]
    if not same:
        what = "; ".join(changed) or "as many rows, but other text, template or settings"
        raise DataError(
            f"{past.folder}: the data is not what this run saw ({what}). Restore it, and start "
            "swift in the folder where the run was started"
        )
    other = [name for name in order if then is not None and then.get(name) != order[name]]
    if then is not None and other:
        what = ", ".join(f"{name}: was {then.get(name)}, is {order[name]}" for name in other)
        raise DataError(
            f"{past.folder}: its checkpoint was written with other settings ({what}); "
            "restore config.yaml, or say with --processes how many processes the run had"
        )


def _changed(before: dict[str, dict[str, Any]], now: Ledger) -> list[str]:
    """How many rows of each source there were, where they are not as many today."""
    accounts = now.as_dict()
    return [
        f"{name}: {_count(before.get(name))} then, {_count(accounts.get(name))} now"
        for name in dict.fromkeys([*before, *accounts])
        if before and _numbers(before.get(name)) != _numbers(accounts.get(name))
    ]


def _numbers(account: dict[str, Any] | None) -> list[Any]:
    return [account.get(name) for name in _NUMBERS] if account else []


def _count(account: dict[str, Any] | None) -> str:
    return f"{account['rows']:,} rows and {account['samples']:,} samples" if account else "not used"
