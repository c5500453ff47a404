"""Files -> rows: every kind of file, the place of every row, a part of the rows at random."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift.data import source
from swift.data.source import Source, blocks, check_inputs, open_sources, rows, split_name
from swift.errors import ConfigError, DataError

ROWS = [{"query": f"q{i}", "response": f"r{i}\n你好 🐦" if i % 2 else "r"} for i in range(7)]


def open_(path: Path, take: int | None = None) -> Source:
    return Source(path, path.name, take)


def read(path: Path) -> list[tuple[int, Any]]:
    return [(line, json.loads(row)) for line, row in rows(open_(path))]


def texts(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["query", "response"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def lines(text: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in text)


def write(kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return texts(path, lines(ROWS))
    if kind == "json":
        return texts(path, json.dumps(ROWS))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
        return path
    return table(path, "\t" if kind == "tsv" else ",")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert [row for _, row in read(write(kind, tmp_path))] == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_the_line_of_a_row_is_where_it_begins(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    content = path.read_text(encoding="utf-8").splitlines()
    for line, row in read(path):
        assert f"{row['query']}" in content[line - 1]
        assert open_(path).place(line) == f"rows.{kind}:{line}"


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_rows_without_lines_are_counted(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    assert [number for number, _ in read(path)] == list(range(1, 8))
    assert open_(path).place(3) == f"rows.{kind} row 3"


def test_blank_lines_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = texts(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}\n\n{"text": "c"}'
    )
    assert read(path) == [(1, {"text": "a"}), (4, {"text": "b"}), (6, {"text": "c"})]
    path = texts(tmp_path / "a.csv", b'\xef\xbb\xbftext\r\na\r\n\r\n"b\nb"\r\nc\r\n')
    assert read(path) == [(2, {"text": "a"}), (4, {"text": "b\nb"}), (6, {"text": "c"})]
    path = texts(tmp_path / "a.json", b'\xef\xbb\xbf[{"text": "a"}]')
    assert read(path) == [(1, {"text": "a"})]


def test_a_short_row_of_a_table_lacks_and_a_long_one_loses(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.csv", "a,b\n1\n1,2,3\n")
    assert [row for _, row in read(path)] == [{"a": "1", "b": None}, {"a": "1", "b": "2"}]


def test_a_field_of_a_megabyte(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.csv", "text\n" + "x" * (1 << 20) + "\n")
    [(_, row)] = read(path)
    assert len(row["text"]) == 1 << 20


def test_json_in_its_forms(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (
        '{"data": [{"text": "a"}, {"text": "b"}], "version": 1}',
        '[{"text": "a"}, {"text": "b"}]',
        '{"text": "a"}\n\n{"text": "b"}\n',
    ):
        assert read(texts(path, content)) == [(1, {"text": "a"}), (2, {"text": "b"})]
    assert read(texts(path, '{"text": "a"}')) == [(1, {"text": "a"})]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    for name in ("a.txt", "a.md"):
        path = texts(tmp_path / name, "\ufeffone\n\ntwo\n")
        assert read(path) == [(1, {"text": "one\n\ntwo\n"})]


def test_a_long_text_file_is_cut_at_empty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_DOCUMENT", 100)
    paragraphs = [f"Paragraph {i} {'x' * (i * 7 % 60)}\n\n" for i in range(40)]
    path = texts(tmp_path / "a.txt", "".join(paragraphs))
    content = path.read_text().splitlines(keepends=True)
    documents = read(path)
    assert len(documents) > 5
    assert "".join(row["text"] for _, row in documents) == "".join(paragraphs)
    for line, row in documents:
        assert row["text"].startswith(content[line - 1])
        assert row["text"].startswith("Paragraph")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b"[1, 2", "a.json: not JSON: "),
        ("a.json", b"5", "a.json: should hold a list of rows"),
        ("a.csv", b"text\na\n\xff\xfe\n", "a.csv:"),
        ("a.parquet", b"PAR1 no", "a.parquet: not Parquet: "),
        ("a.txt", b"\xff\xfe\x00", "a.txt: not UTF-8 text: "),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = texts(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(why)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.txt"):
        assert read(texts(tmp_path / name, "")) == []


# Blocks, and a part of the rows


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    count = source.BLOCK * 2 + 500
    return texts(tmp_path / "long.jsonl", lines([{"text": str(i)} for i in range(count)]))


def test_blocks_hold_every_row_once_in_order(long_file: Path) -> None:
    found = list(blocks(open_(long_file), 1))
    assert [len(block.rows) for block in found] == [source.BLOCK, source.BLOCK, 500]
    every = [json.loads(row)["text"] for block in found for row in block.rows]
    assert every == [str(i) for i in range(source.BLOCK * 2 + 500)]
    assert [line for block in found for line in block.lines] == list(range(1, len(every) + 1))


def test_blocks_of_long_rows_are_short(long_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_BLOCK_BYTES", 2000)
    found = list(blocks(open_(long_file), 1))
    assert max(sum(map(len, block.rows)) for block in found) < 2000 + 100
    assert sum(len(block.rows) for block in found) == source.BLOCK * 2 + 500


@pytest.mark.parametrize("take", [1, 10, 3000])
def test_fewer_rows_are_taken_at_random(long_file: Path, take: int) -> None:
    def taken(seed: int) -> list[tuple[int, str]]:
        return [
            (line, json.loads(row)["text"])
            for block in blocks(open_(long_file, take), seed)
            for line, row in zip(block.lines, block.rows, strict=True)
        ]

    first = taken(1)
    assert len(first) == len(set(first)) == take
    assert all(int(text) == line - 1 for line, text in first)
    assert first == sorted(first)
    assert taken(1) == first
    assert taken(2) != first


def test_every_row_is_taken_equally_often(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", lines([{"text": str(i)} for i in range(20)]))
    counts = np.zeros(20)
    for seed in range(400):
        for block in blocks(open_(path, 5), seed):
            counts[np.array(block.lines) - 1] += 1
    assert counts.sum() == 2000
    assert abs(counts - 100).max() < 50  # 100 +- 8.7: a wrong pick would be far away


def test_as_many_rows_as_there_are_or_more_are_all_of_them(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", lines(ROWS))
    for take in (7, 8, 100):
        assert [line for b in blocks(open_(path, take), 1) for line in b.lines] == list(range(1, 8))


# Names


def test_a_name_with_a_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_name("a.jsonl") == ("a.jsonl", None)
    assert split_name("a.jsonl#500") == ("a.jsonl", 500)
    assert split_name("swift/self-cognition#500") == ("swift/self-cognition", 500)
    for wrong in ("a.jsonl#", "a.jsonl#many", "a.jsonl#0", "a.jsonl#-1", "a.jsonl#²"):
        with pytest.raises(ConfigError, match="write the number of rows after the #"):
            split_name(wrong)
    monkeypatch.chdir(tmp_path)
    Path("odd#5").touch()
    assert split_name("odd#5") == ("odd#5", None)


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        (["data/train-00000-of-00002.jsonl", "data/validation-00000-of-00001.jsonl"], [0]),
        (["train/a.jsonl", "train/b.jsonl", "dev/a.jsonl"], [0, 1]),
        (["my_train_set.jsonl", "extra.jsonl", "Val.jsonl"], [0, 1]),
        (["test.jsonl", "validation.jsonl"], [0, 1]),  # no part for training: all of it
        (["latest.jsonl", "trains.jsonl"], [0, 1]),
        (["a.jsonl", ".cache/b.jsonl", ".hidden.jsonl"], [0]),
    ],
)
def test_a_folder_with_a_part_for_training(
    files: list[str], taken: list[int | str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    found = open_sources([str(tmp_path)], Path)
    names = {str(source.path.relative_to(tmp_path)) for source in found}
    assert names == {files[i] if isinstance(i, int) else i for i in taken}


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.jsonl", "a.csv", "b/c.parquet", "README.rst"):
        texts(tmp_path / name, "")
    found = open_sources(["folder"], lambda name: tmp_path)
    assert [(one.name, one.path.name) for one in found] == [
        ("folder/a.csv", "a.csv"),
        ("folder/b/c.parquet", "c.parquet"),
        ("folder/z.jsonl", "z.jsonl"),
    ]


def test_every_name_that_cannot_be_used_is_listed(tmp_path: Path) -> None:
    texts(tmp_path / "a.doc", "")
    texts(tmp_path / "a.jsonl", "")
    texts(tmp_path / "b.jsonl", "")
    (tmp_path / "empty").mkdir()

    def locate(name: str) -> Path:
        if name == "absent":
            raise ConfigError("--dataset: absent does not exist")
        return tmp_path / name

    with pytest.raises(ConfigError) as caught:
        open_sources(
            ["absent", "a.doc", "empty", ".#5", "a.jsonl#x", "a.jsonl"],
            locate,
            flag="--val_dataset",
        )
    assert [problem.replace(str(tmp_path), "T") for problem in caught.value.problems] == [
        "--val_dataset: absent does not exist",
        "--val_dataset: T/a.doc: known files are .csv, .json, .jsonl, .md, .parquet, .tsv, .txt",
        "--val_dataset: empty holds no .csv, .json, .jsonl, .md, .parquet, .tsv, .txt file",
        "--val_dataset: .#5: # works on one file, and . has several",
        "--val_dataset: a.jsonl#x: write the number of rows after the #, as in x#500",
    ]


def test_everything_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoint-3").mkdir(parents=True)
    (tmp_path / "run/checkpoint-3/adapter_config.json").write_text("{}")
    data = {"--dataset": ["./a.jsonl#5", "b#x"], "--val_dataset": [f"{tmp_path}/c.csv"]}
    with pytest.raises(ConfigError) as error:
        check_inputs(["./nowhere", "on/a-hub"], [str(tmp_path / "run"), "none"], data)
    assert error.value.problems == [
        "--model: ./nowhere does not exist",
        f"--adapters: {tmp_path}/run holds no adapter_config.json; "
        f"did you mean {tmp_path}/run/checkpoint-3?",
        "--adapters: none holds no adapter_config.json",
        "--dataset: ./a.jsonl does not exist",
        "--dataset: b#x: write the number of rows after the #, as in x#500",
        f"--val_dataset: {tmp_path}/c.csv does not exist",
    ]
    check_inputs(["on/a-hub"], [], {"--dataset": [str(tmp_path), "on/a-hub#5"]})
