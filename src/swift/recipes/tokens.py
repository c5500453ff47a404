"""``swift export --to_cached_dataset true``: tokens in a folder, to learn from elsewhere."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from swift.chat.load import renderer_for
from swift.config.runs import CachedConfig, CachedTextsConfig
from swift.data.cached import read_cached, write_cached
from swift.data.ledger import Ledger
from swift.data.prepare import Workshop
from swift.data.sample import Samples
from swift.data.source import check_inputs, check_take, open_sources, read
from swift.errors import ConfigError, DataError, ResourceError
from swift.hub.locate import cache_dir, locate_dataset, locate_model
from swift.observe.log import Log, quiet_libraries
from swift.parallel.world import World
from swift.recipes.check import ledger_table

_NO_BOUND = 2**31 - 1  # samples keep their length; the run that learns from them has a bound


def run(config: CachedConfig, world: World) -> Path | None:
    """Make tokens as a training run makes them, and write them; returns their folder."""
    quiet_libraries()
    log, model = Log(world.is_main), config.model
    target = Path(config.output or f"output/{Path(model.path).name}-tokens").expanduser()
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"--output_dir: {target} is not empty; give another folder")
    data = {"--dataset": config.data.train, "--val_dataset": config.data.val}
    check_inputs([model.path], model.adapters, data)
    if config.dry_run:
        log(f"would write the tokens of {' '.join(config.data.train)} into {target}")
        return None
    base = locate_model(
        model.path, revision=model.revision, hub=model.hub, code=model.trust_remote_code, say=log
    )
    workshop = Workshop(
        section=config.data,
        spec=renderer_for(base, model).spec,
        kind="text" if isinstance(config, CachedTextsConfig) else "chat",
        max_length=_NO_BOUND,
        cache=cache_dir() / "tokens",
        locate=partial(locate_dataset, hub=model.hub, say=log),
        plugins=tuple(config.external_plugins),
    )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        ledger = _write(workshop, part)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise ResourceError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    Console(file=sys.stdout, highlight=False).print(ledger_table(ledger))
    for line in ledger.losses():
        log(line)
    log(f"written: {target}; learn from it with --cached_dataset {target}")
    return target


def _write(workshop: Workshop, folder: Path) -> Ledger:
    """Write the parts; what they hold is read back and counted."""
    section, ledger = workshop.section, Ledger()
    shares = {"train": 1 - section.split, "val": section.split} if section.split else None
    _part(workshop, folder, section.train, "--dataset", shares)
    if section.val:
        _part(workshop, folder, section.val, "--val_dataset", {"val": 1.0})
    for place in sorted(folder.iterdir()):
        found = read_cached(place, workshop.spec, workshop.settings, 0)
        samples: Samples = workshop.collected(found, ledger)
        if not len(samples):
            raise DataError(f"nothing to learn in the part {place.name}")
    return ledger


def _part(
    workshop: Workshop, folder: Path, names: list[str], flag: str, shares: dict[str, float] | None
) -> None:
    sources = open_sources(names, workshop.locate, flag=flag)
    check_take(sources, flag, "a folder of tokens holds each once")
    encoded = workshop.encoded(read(sources, workshop.section.seed))
    write_cached(folder, encoded, workshop.spec, workshop.settings, shares, workshop.section.seed)
