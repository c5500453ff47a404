"""``swift trace``: the rows that a step of a run learned from; no weights are loaded."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from swift.chat.render import Renderer
from swift.config.runs import TraceConfig
from swift.data.trace import Traced, trace, trace_flow
from swift.errors import ConfigError
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import open_mesh
from swift.parallel.world import World
from swift.recipes.check import table
from swift.recipes.inspect_terminal import console, visible
from swift.train import setup
from swift.train.past import Past, check_past, open_past
from swift.train.plan import max_length_of, order_of, steps_of
from swift.train.session import open_session

_BEGINNING = 80  # characters of a row's text


def run(config: TraceConfig, world: World) -> None:
    """Make the samples of a run again, in its order, and list those of one step."""
    quiet_libraries()
    log = Log(world.is_main)
    past = open_past(Path(config.run).expanduser())
    trained = past.config
    with open_mesh(world, trained.parallel) as mesh:
        session = open_session(trained, mesh, log)
        data = setup.prepare_data(session, past.kind)
        length = max_length_of(trained, session.base)
    order = order_of(trained, data.train, length, config.processes or past.processes or 1)
    check_past(past, setup.order_record(trained, order, data, length), data.ledger)
    steps = steps_of(trained, order)
    if config.step > steps:
        raise ConfigError(f"--step {config.step}: this run has {steps:,} steps")
    step = config.step - 1
    if data.flow:
        rows = trace_flow(data.flow, order, step)
        where = f"of a stream, epoch {data.flow.place.epoch + 1:,}"
    else:
        rows = trace(data.train, order, step)
        epoch, place = divmod(step, order.steps_per_epoch)
        where = f"step {place + 1:,} of {order.steps_per_epoch:,} in epoch {epoch + 1:,}"
    _print(config, past, where, rows, session.renderer)
    _compare(past, config.step, rows, log)


def _print(
    config: TraceConfig,
    past: Past,
    where: str,
    rows: list[Traced],
    renderer: Renderer,
) -> None:
    """The rows as a table, with the columns that tell them apart."""
    packing = past.config.data.packing
    title = (
        f"Step {config.step:,}: {where}; {len(rows):,} samples, "
        f"{sum(row.tokens for row in rows):,} tokens, "
        f"{sum(row.learned for row in rows):,} learned"
    )
    columns = ["row", "tokens", "learned", "process", "micro-batch"]
    listed = table(title, *columns, *(["pack"] if packing else []))
    if config.text:
        listed.add_column("text", no_wrap=True, overflow="ellipsis")
    for row in rows:
        numbers = [row.tokens, row.learned, row.process, row.micro_batch + 1]
        numbers += [row.group + 1] if packing else []
        text = [Text(_beginning(row, renderer))] if config.text else []
        listed.add_row(Text(row.place), *(f"{number:,}" for number in numbers), *text)
    console().print(listed)


def _beginning(row: Traced, renderer: Renderer) -> str:
    text = renderer.tokenizer.decode(row.begins, keep_special=True)
    return visible(" ".join(text.split()))[:_BEGINNING]


def _compare(past: Past, step: int, rows: list[Traced], log: Log) -> None:
    """Say how sure it is that these are the rows."""
    unit, said = past.learned(step) or ("tokens", None)
    counted = sum(row.weight for row in rows) if unit == "tokens" else len(rows)
    if past.order is None:
        log("no checkpoint that the run can go on from: only the numbers of rows were compared")
    if said is not None and abs(said - counted) > 1e-6 * max(said, counted):
        log.warn(f"metrics.jsonl says that {said:,g} {unit} were learned; these rows {counted:,g}")
    elif said is not None:
        log(f"{said:,g} learned {unit}, as metrics.jsonl says")
