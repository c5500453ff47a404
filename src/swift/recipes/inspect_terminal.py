"""What ``swift inspect`` prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from swift.data.ledger import Ledger
from swift.data.survey import Shown, Survey, Token
from swift.recipes.check import ledger_table

_LINES = 10  # of failures, cuts and doubles
_WIDTH = 50  # characters of the longest bar
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def console() -> Console:
    """Where results go; wide enough for long names when nobody is at the terminal."""
    width = None if sys.stdout.isatty() else 160
    return Console(file=sys.stdout, highlight=False, width=width)


def report(out: Console, facts: dict[str, str], ledger: Ledger, survey: Survey) -> None:
    """Print where rows went, and what the samples are as a whole."""
    out.print(ledger_table(ledger))
    for name, value in facts.items():
        out.print(Text.assemble((f"{name:>10}  ", "bold"), visible(value)))
    out.print("\nLength of samples, in tokens", style="bold")
    out.print(_histogram(survey))
    _lines(out, "Rows that are not learned from", ledger.failures, ledger.unused)
    _lines(out, "Samples that are cut or split", survey.cuts, survey.cut)
    _lines(out, "Samples with the same tokens as one before", survey.doubles, survey.doubled)


def _histogram(survey: Survey) -> Text:
    most = max(bar.count for bar in survey.bars)
    size = len(f"{survey.bars[-1].high:,}")
    text = Text()
    for bar in survey.bars:
        filled = "█" * -(-bar.count * _WIDTH // most)
        text.append(f"  {bar.low:>{size},} - {bar.high:>{size},}  ")
        text.append(filled, style="green").append(f" {bar.count:,}\n")
    return text


def _lines(out: Console, what: str, lines: Sequence[object], count: int) -> None:
    if not count:
        return
    out.print(f"{what}: {count:,}", style="bold")
    for line in lines[:_LINES]:
        out.print(f"  {visible(str(line))}", style="yellow", markup=False, soft_wrap=True)
    if len(lines) > _LINES:
        out.print("  ... more of them on the page", style="dim")


def sample(out: Console, shown: Shown) -> None:
    """Print a sample: learned text stands out, by brackets where there are no colours."""
    title = f"\n{shown.place}: {shown.length:,} tokens, {shown.learned:,} learned"
    out.print(visible(title), style="bold", markup=False, soft_wrap=True)
    for seen in shown.media:
        out.print(f"  {visible(str(seen))}", style="cyan", markup=False, soft_wrap=True)
    text = Text()
    for gap, tokens in _halves(shown):
        if gap:
            text.append(f"\n... {gap:,} tokens are not shown ...\n", style="italic")
        for weight, run in groupby(tokens, key=lambda token: token.weight):
            _append(text, list(run), weight, colours=out.color_system is not None)
    out.print(text, soft_wrap=True)


def _append(text: Text, run: list[Token], weight: float, *, colours: bool) -> None:
    base = "dim" if not weight else "underline black on green"
    if weight not in (0, 1):
        base = "underline black on yellow"
    if weight and not colours:
        text.append("⟦" if weight == 1 else f"⟦x{weight:g} ")
    for special, tokens in groupby(run, key=lambda token: token.special):
        style = f"{base} bold" if special else base
        text.append(visible("".join(token.text for token in tokens)), style=style)
    if weight and not colours:
        text.append("⟧")


def _halves(shown: Shown) -> list[tuple[int, list[Token]]]:
    """The tokens shown, each part with the number of those left out before it."""
    if not shown.hidden:
        return [(0, shown.tokens)]
    half = next(i for i, token in enumerate(shown.tokens) if token.position != i)
    return [(0, shown.tokens[:half]), (shown.hidden, shown.tokens[half:])]


def visible(text: str) -> str:
    """Control characters as pictures: what a row holds must not steer the terminal."""
    return text.translate(_CONTROL)
