"""``swift check``, ``--dry_run``: say what a run would do."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from swift.chat.render import Renderer
from swift.data.ledger import Ledger
from swift.data.prepare import Prepared
from swift.models.load import dtype_name
from swift.train.folder import output_of
from swift.train.memory import GIB
from swift.train.plan import sizes
from swift.train.setup import Plan, Session


def show(session: Session, plan: Plan, data: Prepared, renderer: Renderer) -> None:
    """Print rows, tokens, steps, what learns, memory, files and the first sample."""
    if not session.mesh.world.is_main:
        return
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100)
    console.print(_ledger(data.ledger))
    for place in data.ledger.failures[:10]:
        console.print(f"  {place}", style="yellow", markup=False)
    console.print(_run(session, plan, data))
    console.print(_modules(plan))
    console.print(_memory(plan))
    console.print("The first sample; what is learned is underlined:", style="bold")
    console.print(_sample(data, renderer))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _ledger(ledger: Ledger) -> Table:
    table = _table("Rows", "source", "rows", "kept", "cut", "dropped", "failed", "samples")
    for name, account in ledger.accounts.items():
        numbers = (
            account.rows,
            account.kept,
            account.cut,
            sum(account.dropped.values()),
            sum(account.failed.values()),
            account.samples,
        )
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def _run(session: Session, plan: Plan, data: Prepared) -> Table:
    config, order = session.config, plan.order
    tokens = int(data.train.lengths_S.sum())
    learned = int(data.train.learned_S.sum())
    table = _table("Run", "", "")
    table.show_header = False
    table.columns[1].justify = "left"
    groups = f"{len(order.groups):,} packs" if config.data.packing else "no packing"
    rows = {
        "model": f"{config.model.path} ({dtype_name(session.compute)}, {session.mesh.device.type})",
        "samples": f"{len(data.train):,} to train on, {len(data.val):,} to evaluate on; {groups}",
        "tokens": f"{tokens:,}, of which {learned:,} are learned ({learned / tokens:.0%})",
        "longest": f"{int(data.train.lengths_S.max()):,} tokens of at most {plan.max_length:,}",
        "steps": f"{plan.steps:,} ({order.steps_per_epoch:,} an epoch, "
        f"{order.groups_per_step} {'packs' if config.data.packing else 'samples'} each: "
        f"{order.batch_size} x {order.accumulation} x {order.processes} processes)",
        "learning rate": f"{plan.learning_rate:g}, {config.schedule.kind}",
        "files": f"{output_of(config)}/ (checkpoints, metrics.jsonl, loss.png, config.yaml)",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _modules(plan: Plan) -> Table:
    shape = plan.shape
    share = shape.learning / shape.parameters
    title = f"Parameters: {shape.learning:,} of {shape.parameters:,} learn ({share:.2%})"
    table = _table(title, "module", "all", "learn")
    for row in sizes(shape.kinds):
        table.add_row(*row)
    return table


def _memory(plan: Plan) -> Table:
    budget = plan.budget
    table = _table("Memory, estimated, on one device", "part", "GiB")
    for name, size in budget.estimate.rows():
        table.add_row(name, f"{size / GIB:.2f}")
    table.add_row("all", f"{budget.estimate.total / GIB:.2f}", style="bold")
    table.add_row("free now", f"{budget.free / GIB:.2f}")
    table.add_row("gradient checkpointing", "on" if budget.again else "off")
    return table


def _sample(data: Prepared, renderer: Renderer) -> Text:
    sample = data.train[0]
    text = Text()
    begin = 0
    tokens, weights = sample.tokens.tolist(), sample.weights.tolist()
    for i in range(1, len(tokens) + 1):
        if i == len(tokens) or weights[i] != weights[begin]:
            piece = renderer.tokenizer.decode(tokens[begin:i], keep_special=True)
            text.append(piece, style="underline green" if weights[begin] > 0 else "dim")
            begin = i
    text.append(f"\n({sample.place}, {len(tokens)} tokens)", style="italic")
    return text
