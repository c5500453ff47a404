"""The page of ``swift inspect``: one HTML file that needs nothing else, no script at all.

A token is ``<b data-i="id" data-w="weight" data-p="position">text</b>``; the style sheet does the
rest, so what a row says can never become code: every text goes through :func:`_text`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from swift.data.ledger import Account, Ledger
from swift.data.seen import Seen
from swift.data.survey import Bar, Shown, ShownPack, Survey, Token
from swift.recipes.inspect_style import STYLE

_FAILURES = 300  # written out on the page


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    title: str
    facts: dict[str, str]
    ledger: Ledger
    survey: Survey
    samples: list[Shown]
    packs: list[ShownPack]  # with packing, in place of the first samples
    marks: dict[int, str]  # what is special about a sample, by its number


def page(content: Page) -> str:
    """The whole page."""
    survey = content.survey
    parts = [
        f"<h1>{_plain(content.title)}</h1>",
        _facts(content.facts),
        _legend(),
        _section("Rows", _ledger(content.ledger)),
        _section("Length of samples, in tokens", histogram(survey.bars)),
        _section(
            f"Rows that are not learned from: {content.ledger.unused:,}",
            _list(content.ledger.failures[:_FAILURES], content.ledger.unused),
        ),
        _section(f"Cut or split: {survey.cut:,} samples", _list(survey.cuts, survey.cut)),
        _section(
            f"The same tokens as a sample before: {survey.doubled:,} samples",
            _list(survey.doubles, len(survey.doubles)),
        ),
        *(_pack(pack, content.marks) for pack in content.packs),
        *(_sample(shown, content.marks) for shown in content.samples),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_plain(content.title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _plain(text: str) -> str:
    """A text of one line, harmless in HTML."""
    return escape(_pictures(text), quote=True)


def _pictures(text: str) -> str:
    """Control characters as the pictures that Unicode has for them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda m: _picture(m[0]), text)


def _picture(char: str) -> str:
    return "\u2421" if char == "\x7f" else chr(0x2400 + ord(char))


def _text(text: str) -> str:
    """The text of a token: white space and control characters can be seen, all else is escaped."""
    return re.sub(r" +|[\x00-\x1f\x7f&<>\"']", _mark, text)


def _mark(found: re.Match[str]) -> str:
    run = found[0]
    if run[0] == " ":
        return f"<i>{run}</i>"
    if run in "\n\t":
        return f'<u class="{"n" if run == chr(10) else "t"}">{run}</u>'
    return escape(run) if run in "&<>\"'" else f"<em>{_picture(run)}</em>"


def _token(token: Token) -> str:
    kinds = ["s"] if token.special else []
    if token.weight and not token.position:
        kinds.append("f")  # nothing predicts the first token
    elif token.weight:
        kinds.append("l" if token.weight == 1 else "w")
    number = f"<sup>{token.weight:g}</sup>" if "w" in kinds else ""
    text = _text(token.text) if token.text else "<em>⋯</em>"
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return (
        f'<b{kind} data-i="{token.id}" data-w="{token.weight:g}" '
        f'data-p="{token.position}">{text}{number}</b>'
    )


def _tokens(shown: Shown) -> str:
    parts = [_token(token) for token in shown.tokens]
    if shown.hidden:
        half = next(i for i, token in enumerate(shown.tokens) if token.position != i)
        parts.insert(half, f'<p class="gap">{shown.hidden:,} tokens are not shown</p>')
    return f'<div class="x">{"".join(parts)}</div>'


def _sample(shown: Shown, marks: dict[int, str], grow: str = "") -> str:
    mark = f" <mark>{_plain(marks[shown.number])}</mark>" if shown.number in marks else ""
    return (
        f'<article{grow}><h3><span class="at">{_plain(shown.place)}</span>{mark} '
        f"<small>{shown.length:,} tokens, {shown.learned:,} learned</small></h3>"
        f"{_media(shown.media)}{_tokens(shown)}</article>"
    )


def _media(media: Sequence[Seen]) -> str:
    """The media of a sample in a row, each with the tokens that stand for it."""
    figures = []
    for seen in media:
        picture = f'<img src="{seen.picture}" alt="">' if seen.picture else ""
        figures.append(f"<figure>{picture}<figcaption>{_plain(str(seen))}</figcaption></figure>")
    return f'<div class="media">{"".join(figures)}</div>' if figures else ""


def _pack(pack: ShownPack, marks: dict[int, str]) -> str:
    strip = "".join(f'<span style="flex:{length}"></span>' for length in pack.lengths)
    rest = pack.capacity - sum(pack.lengths)
    left = len(pack.lengths) - len(pack.samples)
    more = f'<p class="gap">{left:,} more samples</p>' if left else ""
    inside = "".join(
        _sample(shown, marks, f' style="flex:{shown.length} 1 24em"') for shown in pack.samples
    )
    return (
        f'<section class="pack"><h2>Pack {pack.number + 1:,}: {len(pack.lengths):,} samples, '
        f"{sum(pack.lengths):,} of {pack.capacity:,} positions, {pack.fill:.0%} full</h2>"
        f'<div class="strip">{strip}<span class="free" style="flex:{rest}"></span></div>'
        f'<div class="row">{inside}{more}</div></section>'
    )


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th>{_plain(k)}</th><td>{_plain(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="facts">{rows}</table>'


def _legend() -> str:
    return (
        '<div class="legend"><b class="l">learned</b> <b class="w">learned, another weight'
        '<sup>0.5</sup></b> <b>read only</b> <b class="s">control token</b> '
        '<b class="f">first token: nothing predicts it</b> '
        "<span>Point at a token for its id, weight and position.</span></div>"
    )


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{_plain(title)}</h2>{inside}</section>" if inside else ""


def _ledger(ledger: Ledger) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("source", *Account().numbers))
    rows = "".join(
        f"<tr><td>{_plain(name)}</td>"
        + "".join(f"<td>{number:,}</td>" for number in account.numbers.values())
        + "</tr>"
        for name, account in ledger.accounts.items()
    )
    return f'<table class="rows"><tr>{head}</tr>{rows}</table>'


def _list(lines: Sequence[object], count: int) -> str:
    """The first of ``count`` lines."""
    if not lines:
        return ""
    shown = "".join(f"<li>{_plain(str(line))}</li>" for line in lines)
    more = f"<li>... and {count - len(lines):,} more</li>" if count > len(lines) else ""
    return f"<ul>{shown}{more}</ul>"


def histogram(bars: Sequence[Bar]) -> str:
    """Bars with their counts as SVG."""
    if not bars:
        return ""
    most, width, high = max(bar.count for bar in bars), 52, 120
    parts = []
    for i, bar in enumerate(bars):
        size = round(high * bar.count / most, 1)
        x, y = i * width, 16 + high - size
        middle = x + width / 2
        parts.append(
            f'<rect x="{x + 2}" y="{y}" width="{width - 4}" height="{size}"></rect>'
            f'<text x="{middle}" y="{y - 4}">{bar.count or ""}</text>'
            f'<text x="{middle}" y="{high + 32}">{bar.low:,}</text>'
        )
    total = len(bars) * width
    box = f'viewBox="0 0 {total} {high + 40}" width="{total}" height="{high + 40}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>'
