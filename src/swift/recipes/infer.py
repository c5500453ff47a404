"""``swift infer``: chat in the terminal, or answer a whole data set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from swift.chat.load import renderer_for
from swift.chat.message import KINDS, Media
from swift.config.infer import InferSection
from swift.config.model import UsedModelSection
from swift.config.runs import InferConfig
from swift.data.encode import EncodeSettings
from swift.data.source import check_inputs, open_sources
from swift.errors import ConfigError
from swift.hub.locate import find_adapter, locate_dataset
from swift.infer.batch import Rows, answer_all, questions
from swift.infer.load import Trained, answers_of, fetch, settled
from swift.infer.scoring import load_scoring, on, score_all
from swift.infer.talk import Answers, Talker, Terminal
from swift.models.load import gives_scores, load_config, resolve_dtype
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World
from swift.tune.lora import scores_in


def run(config: InferConfig, world: World) -> None:
    """Load a model and let it answer."""
    quiet_libraries()
    log = Log(world.is_main)
    model, before = settled(config)
    names = _names(config, before)
    models = [] if config.infer.backend == "http" else [model.path or ""]
    check_inputs(models, model.adapters, {"--val_dataset": names})
    sources = open_sources(
        names, partial(locate_dataset, hub=model.hub, say=log), flag="--val_dataset"
    )
    system = config.data.system or before.get("data", "system")
    result = _result_path(config) if names else None
    if config.dry_run:
        doing = f"answer {', '.join(names)} into {result}" if names else "chat"
        log(f"would load {model.path} {' '.join(model.adapters)} and {doing}")
        return
    settings = EncodeSettings.of("chat", config.data, config.external_plugins)
    settings = replace(settings, system=system)
    if (folder := _scoring(config, model, world, log)) is not None:
        if result is None:
            raise ConfigError(f"--val_dataset is needed: {folder} gives scores, and does not chat")
        scoring = on(load_scoring(folder), device_of(world))
        renderer, seed = renderer_for(folder, model), config.data.seed
        scored, failed = score_all(scoring, renderer, sources, settings, seed, result)
        log(f"scores: {result} ({scored} rows, {failed} could not be scored)")
        return
    with _talker(config, model, world, log) as talker:
        if result is None:
            media = [Media(kind, name) for kind in KINDS for name in getattr(config.infer, kind)]
            Terminal(talker, system, config.infer.stream, media).run()
            return
        rows = questions(sources, config.data.seed, settings)
        _answer(rows, config.infer, result, talker, log)


def _scoring(config: InferConfig, model: UsedModelSection, world: World, log: Log) -> Path | None:
    """The folder of a model, or adapter, that gives scores; None: it writes."""
    if config.infer.backend == "http":
        return None
    if model.adapters:
        folder = find_adapter(model.adapters[0])
        return folder if scores_in(folder).count is not None else None
    folder = fetch(model, resolve_dtype(model.dtype, device_of(world)), log)
    code = model.trust_remote_code
    return folder if gives_scores(load_config(folder, trust_remote_code=code)) else None


@contextmanager
def _talker(
    config: InferConfig, model: UsedModelSection, world: World, log: Log
) -> Iterator[Answers]:
    """What answers; a server that was started for it ends with it."""
    talker = answers_of(config, model, device_of(world), log)
    try:
        yield talker
    finally:
        if isinstance(talker, Talker):
            engine: Any = talker.engine  # one that serves
            engine.close()


def _names(config: InferConfig, before: Trained) -> list[str]:
    """The data sets to answer."""
    if config.data.val:
        return config.data.val
    if not config.load_data_args:
        return []
    names = before.get("data", "val")
    if not names:
        raise ConfigError("--load_data_args: the run was not evaluated on a data set of its own")
    return list(names)


def _result_path(config: InferConfig) -> Path:
    if config.result_path:
        return Path(config.result_path).expanduser()
    beside = Path((config.model.adapters or [str(config.model.path)])[0])
    folder = beside if beside.is_dir() else Path("output")
    return folder / "infer_result" / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


def _answer(
    rows: Rows,
    settings: InferSection,
    result: Path,
    talker: Answers,
    log: Log,
) -> None:
    begun = time.perf_counter()

    def progress(answered: int, before: int) -> None:
        log(f"  {before + answered} rows ({answered / (time.perf_counter() - begun):.1f} rows/s)")

    failed = answer_all(talker, rows, result, settings.batch_size, progress)
    log(f"answers: {result}" + (f"; {failed} rows could not be answered" if failed else ""))
