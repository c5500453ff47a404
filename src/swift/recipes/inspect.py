"""``swift inspect``: what will be learned, token by token; no weights are loaded."""

from __future__ import annotations

from pathlib import Path

from swift.chat.render import Renderer
from swift.config.runs import InspectConfig, InspectingConfig
from swift.data.prepare import Prepared
from swift.data.stream import Order
from swift.data.survey import choose, fill_of, show, show_packs, survey
from swift.errors import ResourceError
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.recipes import inspect_terminal as terminal
from swift.recipes.inspect_page import Page, page
from swift.train import setup
from swift.train.plan import capacity_of, max_length_of, order_of
from swift.train.session import open_session

_TERMINAL = 600  # tokens of a sample in the terminal
_PAGE = 100_000  # tokens on the page: more would make a browser slow
_LEAST = 200  # tokens of a sample on the page, however many samples there are


def run(config: InspectingConfig, world: World) -> None:
    """Make samples as a training run makes them, and show them."""
    quiet_libraries()
    log = Log(world.is_main)
    with open_mesh(world, config.parallel) as mesh:
        session = open_session(config, mesh, log)
        renderer = session.renderer
        kind = config.task.task if isinstance(config, InspectConfig) else "text"
        data = setup.prepare_data(session, kind)
        length = max_length_of(config, session.base)
        order = order_of(config, data.train, length, world.size)
        capacity = capacity_of(config, length)
    content = _content(config, data, order, capacity, renderer)
    out = terminal.console()
    terminal.report(out, content.facts, data.ledger, content.survey)
    for i in range(min(config.inspect.samples, len(data.train))):
        terminal.sample(out, show(data.train, i, renderer, _TERMINAL))
    if not config.dry_run:
        log(f"page: {_write(Path(config.output or 'output/inspect').expanduser(), page(content))}")


def _content(
    config: InspectingConfig, data: Prepared, order: Order, capacity: int, renderer: Renderer
) -> Page:
    """What the page shows: with packing the first packs, and in any case the two ends."""
    train, count = data.train, config.inspect.page_samples
    most = max(_LEAST, _PAGE // max(1, count))
    counted, chosen = survey(train), choose(train, count)
    ends = {int(train.lengths_S.argmax()): "longest", int(train.lengths_S.argmin()): "shortest"}
    again = f" ({counted.again:,} of rows taken again)" if counted.again else ""
    facts = {
        "model": config.model.path,
        "data": " ".join(config.data.train),
        "samples": f"{len(train):,} to train on{again}, {len(data.val):,} to evaluate on",
        "tokens": f"{counted.tokens:,}, of which {counted.learned:,} are learned "
        f"({counted.learned / counted.tokens:.0%})",
        "length": f"{train.lengths_S.min():,} to {train.lengths_S.max():,} tokens, of at most "
        f"{capacity:,}",
    }
    packs = []
    if config.data.packing:
        chosen = [i for i in chosen if i in ends]
        fill = fill_of(train, order, capacity)
        facts["packs"] = f"{len(order.groups):,} of {capacity:,} positions, {fill:.1%} full"
        packs = show_packs(train, order, capacity, renderer, count - len(chosen), most)
    samples = [show(train, i, renderer, most) for i in chosen]
    return Page("What will be learned", facts, data.ledger, counted, samples, packs, ends)


def _write(folder: Path, text: str) -> Path:
    """Put the page into its folder, whole or not at all."""
    file = folder / "inspect.html"
    part = file.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(file)
    except OSError as error:
        raise ResourceError(f"{file} cannot be written: {error.strerror}") from None
    return file
