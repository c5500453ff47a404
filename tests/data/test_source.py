"""Files -> rows: every kind of file, the place of every row, a part of the rows at random."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift.data import readers, source
from swift.data.names import split_name
from swift.data.source import Source, blocks, check_inputs, open_sources, rows
from swift.errors import ConfigError, DataError

ROWS = [{"query": f"q{i}", "response": f"r{i}\n你好 🐦" if i % 2 else "r"} for i in range(7)]

KINDS = ".arrow, .csv, .json, .jsonl, .md, .ndjson, .parquet, .tsv, .txt"


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


def arrow(path: Path, form: Any) -> Path:
    content = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, form(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=3)
    return path


def pack(path: Path, end: str) -> Path:
    """The same file, packed, in place of the plain one."""
    plain, target = path.read_bytes(), path.with_name(path.name + end)
    if end == ".zst":
        target.write_bytes(pa.Codec("zstd").compress(plain, asbytes=True))
    else:
        library = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[end]
        target.write_bytes(library.compress(plain))  # type: ignore[attr-defined]
    path.unlink()
    return target


def write(kind: str, folder: Path) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return texts(path, lines(ROWS))
    if kind == "ndjson":
        return texts(path, lines(ROWS))
    if kind == "json":
        return texts(path, json.dumps(ROWS))
    if kind == "arrow":
        return arrow(path, pa.ipc.new_file)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
        return path
    return table(path, "\t" if kind == "tsv" else ",")


@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    assert [row for _, row in read(write(kind, tmp_path))] == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_the_line_of_a_row_is_where_it_begins(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    content = path.read_text(encoding="utf-8").splitlines()
    for line, row in read(path):
        assert f"{row['query']}" in content[line - 1]
        assert open_(path).place(line) == f"rows.{kind}:{line}"


@pytest.mark.parametrize("kind", ["json", "parquet", "arrow"])
def test_rows_without_lines_are_counted(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    assert [number for number, _ in read(path)] == list(range(1, 8))
    assert open_(path).place(3) == f"rows.{kind} row 3"


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_a_packed_file_is_the_plain_one(kind: str, end: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    plain = read(path)
    path = pack(path, end)
    assert read(path) == plain
    place = f"rows.{kind}{end}{' row 3' if kind == 'json' else ':3'}"
    assert open_(path).place(3) == place


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_files_packed_in_parts_and_texts(end: str, tmp_path: Path) -> None:
    whole = pack(texts(tmp_path / "a.txt", "one\n\ntwo\n"), end)
    assert read(whole) == [(1, {"text": "one\n\ntwo\n"})]
    first = pack(texts(tmp_path / "a.jsonl", '{"text": "a"}\n'), end).read_bytes()
    second = pack(texts(tmp_path / "b.jsonl", '{"text": "b"}\n'), end).read_bytes()
    both = texts(tmp_path / f"c.jsonl{end}", first + second)
    assert read(both) == [(1, {"text": "a"}), (2, {"text": "b"})]


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("harm", ["cut", "other"])
def test_a_broken_pack_is_named(end: str, harm: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    content = [{"text": "".join(map(chr, generator.integers(97, 122, 99)))} for _ in range(999)]
    path = pack(texts(tmp_path / "a.jsonl", lines(content)), end)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if harm == "cut" else b'{"text": "not packed"}\n' * 9)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"a.jsonl{end}: cannot be unpacked: ")


def test_a_file_that_is_gone_is_said_as_before(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv.zst", "a.arrow"):
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        assert str(caught.value) == f"{name}: No such file or directory"


def test_arrow_as_a_stream(tmp_path: Path) -> None:
    path = arrow(tmp_path / "data-00000-of-00001.arrow", pa.ipc.new_stream)
    assert read(path) == list(enumerate(ROWS, 1))


def test_a_list_longer_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [*ROWS, 12345, [1, {"a": "]"}], {"text": "x" * 500}, {}, '\\"]'] * 3
    for size in (1, 2, 7, 100):
        monkeypatch.setattr(readers, "_CHUNK", size)
        for indent in (None, 2):
            path = texts(tmp_path / "a.json", json.dumps(content, indent=indent))
            assert read(path) == list(enumerate(content, 1))
        path = texts(tmp_path / "a.json", " [ ] ")
        assert read(path) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('[{"a": 1}, {"a": ', "row 2: Expecting value"),
        ('[{"a": 1}, ', "row 2: the list is cut"),
        ('[{"a": 1} {"a": 2}]', "row 1: Expecting ',' delimiter"),
        ('[{"a": 1}, {"a": 2}] []', "text behind the end of the list"),
        ("[1, 2, nothing]", "row 3: Expecting value"),
    ],
)
def test_where_a_list_is_broken(content: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(texts(tmp_path / "a.json", content))
    assert str(caught.value) == f"a.json: not JSON: {why}"


MEMORY = """
import sys
from pathlib import Path
import numpy, psutil, pyarrow.parquet
from swift.data.source import open_sources, read

def held():
    info = psutil.Process().memory_info()
    return info.rss - info.shared  # without the pages of files

before, most, count = held(), 0, 0
for block in read(open_sources(sys.argv[1:], Path), 1):
    count, most = count + len(block.rows), max(most, held())
print(count, most - before)
"""


@pytest.mark.parametrize(
    "name", ["a.json", "a.json.gz", "a.jsonl.zst", "b.json", "a.csv", "a.arrow", "a.parquet"]
)
def test_memory_does_not_grow_with_a_file(name: str, tmp_path: Path) -> None:
    rows = 120_000 if name == "a.parquet" else 40_000  # its reader takes 30 MB to begin with
    made = [{"text": f"{i} " * 200} for i in range(rows)]
    size = len(lines(made))
    plain = tmp_path / name.removesuffix(".gz").removesuffix(".zst")
    table = pa.Table.from_pylist(made)
    if plain.suffix == ".parquet":
        pq.write_table(table, plain, row_group_size=2000, use_dictionary=False)
    elif plain.suffix == ".arrow":
        with pa.OSFile(str(plain), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    elif plain.suffix == ".csv":
        texts(plain, "text\n" + "".join(row["text"] + "\n" for row in made))
    else:
        texts(plain, json.dumps(made) if plain.name == "a.json" else lines(made))
    path = plain if plain.name == name else pack(plain, Path(name).suffix)
    command = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == rows
    assert size > 40e6
    assert grown < size / 2


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
    monkeypatch.setattr(readers, "_DOCUMENT", 100)
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


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """1 + 2 + ... + 6 rows in six files."""
    (tmp_path / "parts").mkdir()
    for i in range(6):
        rows = [{"text": f"{i}-{k}"} for k in range(i + 1)]
        texts(tmp_path / f"parts/{i}.jsonl", lines(rows))
    return tmp_path / "parts"


def taken(name: str, seed: int = 1) -> list[str]:
    found = source.read(open_sources([name], Path), seed)
    return [json.loads(row)["text"] for block in found for row in block.rows]


@pytest.mark.parametrize("form", ["{}", "{}/*.jsonl", "{}/**/*.jsonl"])
def test_a_part_of_several_files_together(form: str, parts: Path) -> None:
    name = form.format(parts)
    every = taken(name)
    assert len(every) == len(set(every)) == 21
    for take in (1, 10, 20):
        some = taken(f"{name}#{take}")
        assert len(some) == len(set(some)) == take
        assert some == [text for text in every if text in set(some)]  # in their order
        assert some == taken(f"{name}#{take}")
    assert taken(f"{name}#10", seed=2) != taken(f"{name}#10")
    assert taken(f"{name}#21") == taken(f"{name}#99") == every  # more is for who makes samples


def test_a_part_of_several_files_is_that_of_one_with_their_rows(parts: Path) -> None:
    one = parts.parent / "one.jsonl"
    one.write_bytes(b"".join(file.read_bytes() for file in sorted(parts.iterdir())))
    assert taken(f"{parts}#10") == taken(f"{one}#10")


def test_every_row_of_several_files_is_taken_equally_often(parts: Path) -> None:
    counts = Counter(text for seed in range(420) for text in taken(f"{parts}#5", seed))
    assert sum(counts.values()) == 2100
    assert len(counts) == 21
    assert max(abs(count - 100) for count in counts.values()) < 50


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
        (["a.jsonl", "A.jsonl", "B/x.jsonl", "b/x.jsonl", "TRAIN.csv"], [0, 1, 2, 3, 4]),
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
    found = open_sources(["folder"], lambda name, choose: tmp_path)
    assert [(one.name, one.path.name) for one in found] == [
        ("folder/a.csv", "a.csv"),
        ("folder/b/c.parquet", "c.parquet"),
        ("folder/z.jsonl", "z.jsonl"),
    ]


def test_every_name_that_cannot_be_used_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts(tmp_path / "a.doc", "")
    texts(tmp_path / "a.jsonl", "")
    texts(tmp_path / "b.jsonl", "")
    (tmp_path / "empty").mkdir()

    def locate(name: str, choose: Any) -> Path:
        assert name == "absent"
        raise ConfigError("--dataset: absent does not exist")

    with pytest.raises(ConfigError) as caught:
        open_sources(
            ["absent", "a.doc", "empty", ".#5", "a.jsonl#x", "a.jsonl"],
            locate,
            flag="--val_dataset",
        )
    assert caught.value.problems == [
        "--val_dataset: absent does not exist",
        f"--val_dataset: a.doc: known files are {KINDS}, those of lines and text also packed "
        "(.bz2, .gz, .xz, .zst)",
        f"--val_dataset: empty holds no data file ({KINDS})",
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


# Patterns, subsets and splits


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('{"text": "a"}\n')
    return root


def found(name: str, root: Path) -> list[str]:
    return [str(one.path.relative_to(root)) for one in open_sources([name], Path)]


def refusal(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        open_sources([name], Path)
    [problem] = caught.value.problems
    return problem


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(
        tmp_path, "d/a.jsonl", "d/b.jsonl", "d/test.jsonl", "d/e/x.csv", "d/e/f/x.csv", "d/n.doc"
    )
    monkeypatch.chdir(root)
    assert [one.name for one in open_sources(["d/*.jsonl"], Path)] == [
        "d/a.jsonl",
        "d/b.jsonl",
        "d/test.jsonl",  # asked for, so it counts
    ]
    assert found(f"{root}/d/**/x.csv", root) == ["d/e/f/x.csv", "d/e/x.csv"]
    assert found(f"{root}/d/[ab].jsonl", root) == ["d/a.jsonl", "d/b.jsonl"]
    assert found(f"{root}/d/*", root) == ["d/a.jsonl", "d/b.jsonl", "d/test.jsonl"]
    assert refusal("d/*.parquet#5") == "--dataset: no file matches d/*.parquet"
    assert refusal("d/*.doc") == f"--dataset: d/*.doc matches no data file ({KINDS})"
    (root / "odd[1].jsonl").write_text('{"text": "a"}\n')
    assert found("odd[1].jsonl", Path()) == ["odd[1].jsonl"]


HUB = (
    "README.md",
    "dataset_infos.json",
    "data/train-00000-of-00002.parquet",
    "en/train-00000-of-00002-a1b2c3d4e5f60718.parquet",
    "en/train-00001-of-00002-a1b2c3d4e5f60718.parquet",
    "en/test-00000-of-00001.parquet",
    "zh-cn/train.jsonl.gz",
    "zh-cn/dev.jsonl.gz",
    "math_train.jsonl",
    "math_test.jsonl",
    "mathematics.jsonl",
)


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        ("", [2, 3, 4, 8, 6, 10]),
        (":train", [2, 3, 4, 8, 6, 10]),
        (":all", [2, 3, 4, 8, 6, 10]),
        (":default", [2, 3, 4, 8, 6, 10]),
        (":en", [3, 4]),
        (":EN", [3, 4]),
        (":en/train", [3, 4]),
        (":en/test", [5]),
        (":en/test#3", [5]),
        (":test", [5, 9]),
        (":zh-cn", [6]),
        (":zh-cn/validation", [7]),
        (":zh-cn/dev", [7]),
        (":zh", [6]),
        (":en/zh-cn", [3, 4, 6]),  # several subsets
        (":math", [8]),
        (":math/test", [9]),
        (":mathematics", [10]),
        (":mathematics/train", [10]),  # nothing says what it is for
    ],
)
def test_subsets_and_splits(asked: str, files: list[int], tmp_path: Path) -> None:
    root = folder_of(tmp_path, *HUB)
    assert sorted(found(f"{root}{asked}", root)) == sorted(HUB[i] for i in files)


def test_a_part_that_is_not_there_is_answered_with_what_is(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", *HUB)
    has = "it has subsets en, math, mathematics, zh-cn; splits train, test, validation"
    assert refusal(f"{root}:fr") == f"--dataset: {root} has no 'fr'; {has}"
    assert refusal(f"{root}:fr/test") == f"--dataset: {root} has no 'fr'; {has}"
    assert refusal(f"{root}:en/dev") == (
        f"--dataset: {root} has no 'dev'; it has subsets en; splits train, test"
    )
    assert refusal(f"{root}:") == (
        f"--dataset: {root}:: write what to take after the :, as in x:subset/test"
    )
    many = folder_of(tmp_path / "many", *(f"{i:02}/a.jsonl" for i in range(30)))
    shown = ", ".join(f"{i:02}" for i in range(20))
    assert (
        refusal(f"{many}:x") == f"--dataset: {many} has no 'x'; it has subsets {shown} and 11 more"
    )
    only = folder_of(tmp_path / "only", "test.jsonl")
    assert refusal(f"{only}:train") == f"--dataset: {only} has no 'train'; it has splits test"
    assert refusal(f"{only}/test.jsonl:en") == (
        f"--dataset: {only}/test.jsonl is one file; only a folder has parts (:)"
    )


def test_the_name_of_a_hub_with_parts(tmp_path: Path) -> None:
    folder_of(tmp_path, *HUB)
    asked: list[str] = []
    wanted: list[str] = []

    def locate(name: str, choose: Any) -> Path:
        asked.append(name)
        wanted.extend(choose([*HUB, "README.md"]))
        return tmp_path

    [source] = open_sources(["owner/name:en/test#500"], locate)
    assert asked == ["owner/name"]
    assert wanted == ["en/test-00000-of-00001.parquet"]
    assert source.name == "owner/name/en/test-00000-of-00001.parquet"
    assert source.take == 500


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "a:b/en/x.jsonl", "a:b/de/x.jsonl", "c:d.jsonl")
    assert found(f"{root}/a:b", root) == ["a:b/de/x.jsonl", "a:b/en/x.jsonl"]
    assert found(f"{root}/a:b:en", root) == ["a:b/en/x.jsonl"]
    assert found(f"{root}/c:d.jsonl#1", root) == ["c:d.jsonl"]


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path,
        "dataset_dict.json",
        *(
            f"{split}/{name}.json"
            for split in ("train", "test")
            for name in ("state", "dataset_info")
        ),
    )
    for split in ("train", "test"):
        arrow(root / split / "data-00000-of-00001.arrow", pa.ipc.new_stream)
    (root / "train/cache-0123456789abcdef.arrow").write_bytes(b"of an earlier map()")
    assert found(str(root), root) == ["train/data-00000-of-00001.arrow"]
    assert found(f"{root}:test", root) == ["test/data-00000-of-00001.arrow"]
    assert found(f"{root}/test", root) == ["test/data-00000-of-00001.arrow"]


def test_what_is_said_about_rows_is_no_row(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "README.md", "LICENSE.txt", "notes.md", "a.jsonl")
    assert found(str(root), root) == ["a.jsonl", "notes.md"]
    root = folder_of(tmp_path / "b", "README.md", "sub/README.md")
    assert found(str(root), root) == ["README.md", "sub/README.md"]


def test_inputs_with_parts_are_looked_at_before_anything_else(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "en/a.jsonl", "b.doc")
    data = {"--dataset": [f"{root}/*.csv", f"{root}:fr", f"{root}/b.doc", "hub/name:en/test#5"]}
    with pytest.raises(ConfigError) as caught:
        check_inputs([], [], data)
    assert caught.value.problems == [
        f"--dataset: no file matches {root}/*.csv",
        f"--dataset: {root} has no 'fr'; it has subsets a, en",
        f"--dataset: {root}/b.doc: known files are {KINDS}, those of lines and text also packed "
        "(.bz2, .gz, .xz, .zst)",
    ]
    check_inputs([], [], {"--dataset": ["teknium/OpenHermes-2.5:train", f"{root}:en"]})


def test_a_pattern_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    pattern = f"{tmp_path}/*.jsonl"
    asks: list[Callable[[str], object]] = [
        lambda name: open_sources([name], Path),
        lambda name: check_inputs([], [], {"--dataset": [name]}),
    ]
    for ask in asks:
        with pytest.raises(ConfigError) as error:
            ask(f"{pattern}:part")
        assert error.value.problems == [
            f"--dataset: {pattern} is a pattern; only a folder has parts (:)"
        ]
