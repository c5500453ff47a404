"""What ``swift inspect`` shows is what training learns, token by token, and harmless to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from processes import fail, run
from swift.chat.load import load_renderer
from swift.chat.message import Conversation, Message
from swift.data.survey import bars, choose
from swift.recipes.inspect_page import histogram

VOID = {"meta", "br", "img", "link", "input"}
HOSTILE = "</script><b onmouseover=alert(1)> & \"q\" 'a'\x1b[31m \x00\x7f\t  two\r\n\n"
HOSTILE += "你好 🎉 <|im_end|>"


@dataclass
class Seen:
    """A token as the page has it."""

    id: int
    weight: float
    position: int
    kinds: list[str]
    text: str = ""


@dataclass
class Article:
    title: str = ""
    tokens: list[Seen] = field(default_factory=list)


class Reader(HTMLParser):
    """Reads a page; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.articles: list[Article] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in VOID:
            return
        values = {name: value or "" for name, value in attrs}
        if tag == "article":
            self.articles.append(Article())
        if tag == "b" and "data-i" in values:
            kinds = values.get("class", "").split()
            seen = Seen(
                int(values["data-i"]), float(values["data-w"]), int(values["data-p"]), kinds
            )
            self.articles[-1].tokens.append(seen)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "article" not in self.open or "sup" in self.open:
            return
        if "b" in self.open:
            self.articles[-1].tokens[-1].text += data
        elif "h3" in self.open:
            self.articles[-1].title += data


def inspect(checkpoint: Path, folder: Path, *words: object) -> tuple[str, Reader, str]:
    text = run(["inspect", "--model", checkpoint, *words], folder)
    page = (folder / "output/inspect/inspect.html").read_text(encoding="utf-8")
    return text, Reader(page), page


def conversation(row: dict[str, Any]) -> Conversation:
    return Conversation(
        tuple(Message(m["role"], m["content"], weight=m.get("loss")) for m in row["messages"])
    )


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, **more},
        ]
    }


def test_the_page_has_every_token_with_its_id_weight_and_position(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows = [*tiny.chats(12), chat(HOSTILE, HOSTILE), chat("half", "a half", loss=0.5)]
    tiny.write_rows(tmp_path / "d.jsonl", rows)
    _, reader, page = inspect(checkpoint, tmp_path, "--dataset", "d.jsonl")
    renderer = load_renderer(checkpoint)
    assert len(reader.articles) == len(rows)
    for number, (row, article) in enumerate(zip(rows, reader.articles, strict=True), 1):
        [rendered] = renderer.render(conversation(row))
        end = max(i for i, weight in enumerate(rendered.weights) if weight) + 1
        tokens = article.tokens
        assert [token.id for token in tokens] == rendered.tokens[:end]
        assert [token.weight for token in tokens] == rendered.weights[:end]
        assert [token.position for token in tokens] == list(range(end))
        learned = [token for token in tokens if {"l", "w"} & set(token.kinds)]
        assert [t.weight > 0 for t in tokens] == [t in learned for t in tokens]
        special = renderer.tokenizer.special_ids
        assert [t.id in special for t in tokens] == ["s" in t.kinds for t in tokens]
        assert article.title.startswith(f"d.jsonl:{number} ")
        assert f"{end} tokens, {len(learned)} learned" in article.title
    assert "w" in reader.articles[-1].tokens[-1].kinds and "<sup>0.5</sup>" in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_what_a_row_holds_stays_text(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", [chat(HOSTILE, HOSTILE), chat("a", "b", role="<b>")])
    text, reader, page = inspect(checkpoint, tmp_path, "--dataset", "d.jsonl")
    assert not {"script", "img", "a", "link"} & reader.tags
    assert not any(name.startswith("on") for name in reader.attributes)
    shown = "".join(token.text for token in reader.articles[0].tokens)
    expected = HOSTILE.translate({0: 0x2400, 27: 0x241B, 127: 0x2421, 13: 0x240D})
    assert shown.count(expected.replace("🎉", "⋯⋯⋯🎉").replace("你好", "⋯⋯你⋯⋯好")) == 2
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", page.replace("\t", ""))
    assert "\x1b" not in text and "\x00" not in text
    assert "⟦</script><b onmouseover=alert(1)>" in text


def test_the_terminal_says_where_rows_went_and_shows_the_first(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows = tiny.chats(9)
    rows[4] = rows[2]
    rows[5] = {"messages": [{"role": "user", "content": "And?"}]}
    rows[7] = chat("x " * 300, "long")
    tiny.write_rows(tmp_path / "d.jsonl", rows)
    words = ["--dataset", "d.jsonl", "--max_length", 200, "--samples", 2]
    text, reader, _ = inspect(checkpoint, tmp_path, *words)
    assert "Rows that are not learned from: 2" in text
    assert "d.jsonl:6: the last message is from 'user'" in text and "d.jsonl:8: too long" in text
    assert (
        "Samples with the same tokens as one before: 1" in text and "d.jsonl:3 = d.jsonl:5" in text
    )
    assert "⟦Answer 0. It is so. <|im_end|>⟧" in text
    titles = re.findall(r"(d\.jsonl:\d+): \d+ tokens, \d+ learned", text)
    assert titles == ["d.jsonl:1", "d.jsonl:2"]
    for said in ("d.jsonl:8: too long", "d.jsonl:3 = d.jsonl:5", "longest", "shortest"):
        assert said in reader.text
    cut = [*words, "--truncation_strategy", "cut-left"]
    text, reader, _ = inspect(checkpoint, tmp_path, *cut)
    [line] = re.findall(r"Samples that are cut or split: 1\n +(.*)", text)
    assert re.fullmatch(r"d\.jsonl:8: tokens [\d,]+ to ([\d,]+) of \1", line)
    assert line in reader.text


def test_packs_are_those_of_the_run_with_their_borders(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(30))
    words = ["--dataset", "d.jsonl", "--max_length", 256, "--packing", "--page_samples", 12]
    text, reader, page = inspect(checkpoint, tmp_path, *words, "--data.shuffle", "false")
    assert re.search(r"packs +\d+ of 256 positions, \d\d\.\d% full", text)
    packs = re.findall(r"Pack (\d+): (\d+) samples, (\d+) of 256 positions", page)
    assert [int(number) for number, _, _ in packs] == list(range(1, len(packs) + 1))
    strips = re.findall(r'<div class="strip">(.*?)</div>', page)
    for (_, count, filled), strip in zip(packs, strips, strict=True):
        *lengths, free = map(int, re.findall(r"flex:(\d+)", strip))
        assert (len(lengths), sum(lengths), sum(lengths) + free) == (int(count), int(filled), 256)
    assert len(reader.articles) == 12


def test_a_long_sample_and_many_samples_stay_small(checkpoint: Path, tmp_path: Path) -> None:
    long = [chat("why? " * 4000, "because. " * 4000)] * 2
    tiny.write_rows(tmp_path / "d.jsonl", [*long, *tiny.chats(400)])
    words = ["--dataset", "d.jsonl", "--max_length", 100_000, "--samples", 1]
    text, reader, page = inspect(checkpoint, tmp_path, *words)
    assert len(page) < 4_000_000
    assert len(reader.articles) == 50 and "tokens are not shown" in text
    tokens = reader.articles[0].tokens
    assert len(tokens) == 2000
    assert tokens[999].position == 999 and tokens[1000].position > 10_000


def test_documents_as_swift_pt_learns_them(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Swifts sleep on the wing. " * 60)
    (tmp_path / "run.yaml").write_text(
        f"command: pt\nmodel: {{path: {checkpoint}}}\ndata: {{train: book.txt, max_length: 64}}\n"
    )
    text = run(["inspect", "run.yaml", "--output_dir", "there"], tmp_path)
    reader = Reader((tmp_path / "there/inspect.html").read_text(encoding="utf-8"))
    assert "packs" in text and "Samples that are cut or split" in text
    first, *others = reader.articles[0].tokens
    assert first.kinds == ["f"] and all("l" in token.kinds for token in others)
    again = run(["inspect", "pt", "run.yaml", "--dry_run", "--output_dir", "no"], tmp_path)
    assert again.splitlines() == [line for line in text.splitlines() if "page: " not in line]
    assert not (tmp_path / "no").exists()


def test_the_configuration_of_a_run_can_be_inspected(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--report_to", "none"]
    run([*words, "--max_steps", 1, "--output_dir", "run"], tmp_path)
    run(["inspect", "run/config.yaml"], tmp_path)
    assert (tmp_path / "run/inspect.html").is_file()
    (tmp_path / "file").write_text("")
    code, text = fail(["inspect", "run/config.yaml", "--output_dir", "file/x"], tmp_path)
    assert code == 1 and "inspect.html cannot be written" in text


def test_rows_that_are_taken_again_are_not_doubles(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "d.jsonl", tiny.chats(6))
    text, reader, _ = inspect(checkpoint, tmp_path, "--dataset", "d.jsonl#15")
    assert "15 to train on (9 of rows taken again)" in text and "same tokens" not in text
    assert len(reader.articles) == 15


def test_sft_or_pt_is_meant_and_nothing_else(tmp_path: Path) -> None:
    for command, default in (("sft", "drop"), ("pt", "split")):
        page = run(["inspect", command, "--help", "data"], tmp_path)
        [help_text] = re.findall(r"--truncation_strategy[^[]*", page)
        assert f"Default: {default}." in " ".join(help_text.split())
    code, text = fail(["inspect", "infer", "--model", "m", "--dataset", "d"], tmp_path)
    assert code == 2 and "infer: not a configuration file" in text


@pytest.mark.parametrize("lengths", [[5], [1, 1000], [2, 2, 2], list(range(1, 40)), [7, 10**6]])
def test_bars_hold_every_length_once(lengths: list[int]) -> None:
    found = bars(np.array(lengths))
    assert len(found) <= 17
    assert sum(bar.count for bar in found) == len(lengths)
    for bar in found:
        assert bar.count == sum(bar.low <= length <= bar.high for length in lengths)
    Reader(histogram(found))
    assert histogram([]) == ""


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 40, 60])
def test_the_chosen_are_the_first_and_the_two_ends(
    checkpoint: Path, tmp_path: Path, most: int
) -> None:
    from swift.data.sample import Samples

    stop = np.arange(100, 140)
    stop[[30, 35]] = 500, 3
    samples = Samples(stop_S=stop, start_S=np.zeros(40, int), block_S=np.zeros(40, int))
    chosen = choose(samples, most)
    assert len(chosen) == min(most, 40)
    if most < 3:
        assert chosen == list(range(most))
    else:
        assert {30, 35} <= set(chosen)
        rest = [i for i in chosen if i not in (30, 35)]
        assert rest == [i for i in range(40) if i not in (30, 35)][: len(rest)]
