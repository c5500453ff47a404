"""``swift sample``: draw answers, judge them, write the best as rows to learn from."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

from swift.config.sample import SampleConfig
from swift.data.source import check_inputs, open_sources
from swift.errors import ConfigError
from swift.hub.locate import locate_dataset
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World
from swift.rl.court import court_of
from swift.rl.sampling import Journal, ask_all, cached, queries, write_rows


def run(config: SampleConfig, world: World) -> Path | None:
    """Draw and judge.

    Returns:
        The file of the rows; None after a dry run.
    """
    quiet_libraries()
    log, section = Log(world.is_main), config.sample
    local = section.ask and config.infer.backend != "http" and config.model.path is not None
    models = [config.model.path or ""] if local else []
    check_inputs(models, config.model.adapters, {"--dataset": config.data.train})
    sources = open_sources(
        config.data.train, partial(locate_dataset, hub=config.model.hub, say=log)
    )
    counts: Counter[str] = Counter()
    most = (section.num_sampling_batches or 10**12) * section.num_sampling_batch_size
    asked = list(islice(queries(sources, config, counts, log), most))
    rows, journal = _open(config)
    known = {**cached(section.cache_files), **journal.answers}
    missing = [query for query in asked if query.id not in known]
    log(
        f"{len(asked):,} queries, {len(missing):,} of them to be asked "
        f"{section.num_return_sequences} times; rows: {rows}"
    )
    if config.dry_run:
        return None
    court = court_of(config, device_of(world), log)
    if section.ask and missing:
        ask_all(config, missing, journal, counts, device_of(world), log)
    write_rows(rows, asked, {**known, **journal.answers}, court, config, counts)
    text = json.dumps(dict(counts), indent=2)
    rows.with_suffix(".counts.json").write_text(text, encoding="utf-8")
    log("; ".join(f"{count:,} {name}" for name, count in counts.items() if count))
    log(f"rows: {rows}")
    return rows


def _open(config: SampleConfig) -> tuple[Path, Journal]:
    """The file of the rows and the journal beside it.

    Raises:
        ConfigError: they are there, and nobody said what to do about it.
    """
    section, folder = config.sample, Path(config.output).expanduser()
    rows = folder / (section.output_file or f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
    path = rows.with_suffix(".answers.jsonl")
    there = rows.exists() or path.exists()
    if there and not section.resume and not section.override_exist_file:
        raise ConfigError(
            f"--output_file: {rows} was begun before; --resume true goes on with it, "
            "--override_exist_file true begins anew"
        )
    if not config.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        if not section.resume:
            path.unlink(missing_ok=True)
    return rows, Journal.open(path) if section.resume and not config.dry_run else Journal(path)
