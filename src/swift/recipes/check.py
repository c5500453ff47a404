"""``swift check``, ``--dry_run``: say what a run would do."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from swift.chat.render import Renderer
from swift.data.ledger import Account, Ledger
from swift.data.prepare import Prepared
from swift.models.load import dtype_name
from swift.train.folder import output_of
from swift.train.memory import GIB
from swift.train.plan import sizes
from swift.train.session import Plan, Session


def show(session: Session, plan: Plan, data: Prepared) -> None:
    """Print rows, tokens, steps, what learns, memory, files and the first sample."""
    if not session.mesh.world.is_main:
        return
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 100)
    console.print(ledger_table(data.ledger))
    for place in data.ledger.failures[:10]:
        console.print(f"  {place}", style="yellow", markup=False)
    console.print(_run(session, plan, data))
    console.print(_modules(plan))
    console.print(_memory(plan))
    console.print("The first sample; what is learned is underlined:", style="bold")
    console.print(_sample(data, session.renderer))


def table(title: str, *columns: str) -> Table:
    """An empty table; all columns but the first hold numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return made


def ledger_table(ledger: Ledger) -> Table:
    """Where the rows of every source went."""
    names = list(Account().numbers)
    made = table("Rows", "source", *names)
    for name, account in ledger.accounts.items():
        made.add_row(Text(name), *(f"{number:,}" for number in account.numbers.values()))
    return made


def _run(session: Session, plan: Plan, data: Prepared) -> Table:
    config, order = session.config, plan.order
    tokens = int(data.train.lengths_S.sum())
    learned = int(data.train.learned_S.sum())
    made = table("Run", "", "")
    made.show_header = False
    made.columns[1].justify = "left"
    groups = f"{len(order.groups):,} packs" if config.data.packing else "no packing"
    share = "of a stream" if data.flow else f"{order.steps_per_epoch:,} an epoch"
    begin = "the stream begins with " if data.flow else ""
    rows = {
        "model": f"{config.model.path} ({dtype_name(session.compute)}, {session.mesh.device.type})",
        "samples": f"{begin}{len(data.train):,} to train on, {len(data.val):,} to evaluate on; "
        f"{groups}",
        "tokens": f"{tokens:,}, of which {learned:,} are learned ({learned / tokens:.0%})",
        "longest": f"{int(data.train.lengths_S.max()):,} tokens of at most {plan.max_length:,}",
        "steps": f"{plan.steps:,} ({share}, "
        f"{order.groups_per_step} {'packs' if config.data.packing else 'samples'} each: "
        f"{order.batch_size} x {order.accumulation} x {order.processes} processes)",
        "learning rate": f"{plan.learning_rate:g}, {config.schedule.kind}",
        "files": f"{output_of(config)}/ (checkpoints, metrics.jsonl, loss.png, config.yaml)",
    }
    if order.mix:
        rows["modalities"] = str(order.mix)
    for name, value in rows.items():
        made.add_row(name, value)
    return made


def _modules(plan: Plan) -> Table:
    shape = plan.shape
    share = shape.learning / shape.parameters
    title = f"Parameters: {shape.learning:,} of {shape.parameters:,} learn ({share:.2%})"
    made = table(title, "module", "all", "learn")
    for part, total, learning in shape.parts:
        made.add_row(f"the {part} part", f"{total:,}", f"{learning:,}", style="bold")
    if shape.parts:
        made.add_section()
    for row in sizes(shape.kinds):
        made.add_row(*row)
    return made


def _memory(plan: Plan) -> Table:
    budget = plan.budget
    made = table("Memory, estimated, on one device", "part", "GiB")
    for name, size in budget.estimate.rows():
        made.add_row(name, f"{size / GIB:.2f}")
    made.add_row("all", f"{budget.estimate.total / GIB:.2f}", style="bold")
    made.add_row("free now", f"{budget.free / GIB:.2f}")
    made.add_row("gradient checkpointing", "on" if budget.again else "off")
    return made


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
