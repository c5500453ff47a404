"""``swift verify``: is a checkpoint's template learned as it will be used?"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from swift.chat.load import load_tokenizer, renderer_for, template_of
from swift.chat.properties import PROPERTIES, Reference, Status, reference_of
from swift.chat.trial import Tried, kept_shapes
from swift.config.model import UsedModelSection
from swift.config.runs import VerifyConfig
from swift.config.verify import TriedSection
from swift.data.encode import EncodeSettings
from swift.data.source import check_inputs, open_sources, read
from swift.data.trial import Tally, try_rows
from swift.errors import PropertyError
from swift.hub.locate import cache_dir, locate_dataset
from swift.infer.load import fetch, settle
from swift.models.load import resolve_dtype
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World

_STYLES: dict[Status, str] = {"held": "green", "refused": "yellow", "violated": "bold red"}


def run(config: VerifyConfig, world: World) -> None:
    """Try a checkpoint's renderer on conversations of every shape, and on rows.

    Raises:
        PropertyError: something does not hold.
    """
    quiet_libraries()
    log = Log(world.is_main)
    model, _ = settle(config.model)
    check_inputs([model.path or ""], model.adapters, {"--dataset": config.data.train})
    sources = open_sources(config.data.train, partial(locate_dataset, hub=model.hub, say=log))
    if config.dry_run:
        log(f"would try {model.path} on {' '.join(['built-in shapes', *config.data.train])}")
        return
    words = _words(model, fetch(model, resolve_dtype(model.dtype, device_of(world)), log))
    trust, template = model.trust_remote_code, template_of(model.chat_template)
    renderer = renderer_for(words, model)

    @cache
    def reference() -> Reference:
        tokenizer = load_tokenizer(words, trust_remote_code=trust)
        return reference_of(tokenizer, template, renderer.spec.variables)

    tried = kept_shapes(renderer, reference, cache_dir() / "verify")
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100)
    violated = _show_shapes(console, tried)
    if sources:
        rows = read(sources, config.data.seed)
        tally = try_rows(rows, renderer, reference(), _settings(config.data, config))
        _show_rows(console, tally)
        violated += tally.violated
    if violated:
        raise PropertyError(f"{violated} checks are violated")


def _words(model: UsedModelSection, base: Path) -> Path:
    """Where tokenizer and template are: an adapter brings those that it learned with."""
    adapter = Path(model.adapters[0]) if model.adapters else base
    return adapter if (adapter / "tokenizer.json").is_file() else base


def _settings(section: TriedSection, config: VerifyConfig) -> EncodeSettings:
    names = (("{{NAME}}", section.model_name), ("{{AUTHOR}}", section.model_author))
    return EncodeSettings(
        kind="chat",
        system=section.system,
        columns=tuple(sorted(section.columns.items())),
        names=tuple((mark, tuple(choice)) for mark, choice in names if choice),
        plugins=tuple(config.external_plugins),
    )


def _show_shapes(console: Console, tried: Tried) -> int:
    """Print property x shape and every reason; returns how many checks are violated."""
    table = _table("Conversations of every shape", "shape", *PROPERTIES)
    reasons: dict[tuple[Status, str], list[str]] = {}
    for shape, results in tried.items():
        table.add_row(shape, *(Text(r.status, style=_STYLES[r.status]) for r in results))
        for result in results:
            if result.status != "held":
                places = reasons.setdefault((result.status, result.why), [])
                places += [] if shape in places else [shape]
    console.print(table)
    for (status, why), shapes in sorted(reasons.items(), reverse=True):
        console.print(Text(f"{status}: {why} ({', '.join(shapes)})", style=_STYLES[status]))
    return sum(result.status == "violated" for results in tried.values() for result in results)


def _show_rows(console: Console, tally: Tally) -> None:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.kinds.most_common())
    table = _table(f"{tally.rows:,} rows: {kinds}", "property", *_STYLES)
    for name in PROPERTIES:
        counts = [(status, tally.counts[name, status]) for status in _STYLES]
        cells = (Text(f"{n:,}", style=_STYLES[s] if n else "dim") for s, n in counts)
        table.add_row(name, *cells)
    console.print(table)
    for status, places in tally.examples.items():
        for place in places:
            console.print(Text(f"{status}: {place}", style=_STYLES[status]))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", padding=0)
    for number, column in enumerate(columns):
        table.add_column(column, justify="center" if number else "left", no_wrap=number == 0)
    return table
