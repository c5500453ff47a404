"""Public data sets by a short name: the table, what a name becomes on each hub, the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swift.data.formats.form import formats
from swift.data.source import blocks, check_inputs, open_sources, rows
from swift.errors import ConfigError
from swift.hub import remote
from swift.hub.catalog import catalog, entry_of
from swift.hub.locate import locate_dataset
from swift.recipes.datasets import search

TASKS = {
    *("sft", "pt", "dpo", "kto", "rm", "grpo", "vqa", "caption", "ocr", "grounding", "video"),
    *("audio", "classify", "embedding", "rerank"),
}
COLUMNS = {
    *("messages", "rejected_messages", "system", "query", "response", "rejected_response"),
    *("instruction", "input", "output", "text", "label", "images", "videos", "audios"),
    "ref_audios",
}


# The table


def test_there_are_many_and_every_entry_is_whole() -> None:
    assert len(catalog()) >= 150
    forms = {form.name for form in formats()} | {"preference", "own"}
    for name, entry in catalog().items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name), name
        assert entry.ids, name
        assert entry.task in TASKS, name
        assert entry.form in forms, name
        assert entry.topics, name
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", one) for one in entry.ids.values()), name
        assert all(re.fullmatch(r"[a-z]{2}", language) for language in entry.languages), name
        assert len(set(entry.subsets)) == len(entry.subsets), name
        targets = list(entry.columns.values())
        assert len(set(targets)) == len(targets), name
        assert not set(entry.columns) & set(targets), name


def test_no_id_has_two_names() -> None:
    for hub in ("huggingface", "modelscope"):
        ids = [entry.ids[hub] for entry in catalog().values() if hub in entry.ids]
        assert len(set(ids)) == len(ids)


def test_columns_are_renamed_to_what_is_known() -> None:
    renamed = [entry for entry in catalog().values() if entry.columns]
    assert len(renamed) > 30
    for entry in renamed:
        assert set(entry.columns.values()) <= COLUMNS, entry.name


# From a name to files


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """What is asked of a hub, instead of asking one."""
    asked: list[tuple[str, str]] = []

    def fetch(name: str, hub: str, *_: Any) -> Path:
        asked.append((hub, name))
        return tmp_path

    monkeypatch.setattr(remote, "fetch_rows", fetch)
    return asked


@pytest.mark.parametrize(
    ("name", "hub", "asked"),
    [
        ("alpaca-en", "auto", ("huggingface", "vicgalle/alpaca-gpt4")),
        ("alpaca-en", "huggingface", ("huggingface", "vicgalle/alpaca-gpt4")),
        ("alpaca-en", "modelscope", ("modelscope", "AI-ModelScope/alpaca-gpt4-data-en")),
        ("ms-bench", "auto", ("modelscope", "iic/ms_bench")),  # it is nowhere else
        (
            "AI-ModelScope/alpaca-gpt4-data-en",
            "auto",
            ("auto", "AI-ModelScope/alpaca-gpt4-data-en"),
        ),
        ("swift/OpenHermes-2.5", "modelscope", ("modelscope", "swift/OpenHermes-2.5")),
        ("ms::swift/self-cognition", "auto", ("modelscope", "swift/self-cognition")),
        ("HF::tatsu-lab/alpaca", "modelscope", ("huggingface", "tatsu-lab/alpaca")),
    ],
)
def test_the_id_on_the_hub_that_is_asked(
    fetched: list[tuple[str, str]], name: str, hub: str, asked: tuple[str, str]
) -> None:
    locate_dataset(name, hub=hub)
    assert fetched == [asked]


@pytest.mark.parametrize(
    ("name", "hub", "said"),
    [
        ("ms-bench", "huggingface", "is on ModelScope only (iic/ms_bench); add --use_hf false"),
        ("alpaca", "modelscope", "is on Hugging Face only (tatsu-lab/alpaca); add --use_hf true"),
    ],
)
def test_a_hub_that_has_it_not(
    fetched: list[tuple[str, str]], name: str, hub: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        locate_dataset(name, hub=hub)
    assert caught.value.problems == [f"--dataset: {name} {said}"]
    assert fetched == []


def test_a_path_of_that_name_wins(
    fetched: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sql-create-context").mkdir()
    Path("sql-create-context/a.jsonl").write_text('{"question": "q"}\n')
    [source] = open_sources(["sql-create-context"], locate_dataset)
    assert fetched == []
    assert [json.loads(row) for _, row in rows(source)] == [{"question": "q"}]


def test_an_almost_known_name_is_answered_with_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, *_: Any) -> Path:
        raise ConfigError(f"--dataset: {name} is not there")

    monkeypatch.setattr(remote, "fetch_rows", fetch)
    with pytest.raises(ConfigError) as caught:
        locate_dataset("alpaca-enn")
    assert caught.value.problems == [
        "--dataset: alpaca-enn is not there; "
        "the catalog has alpaca-en, alpaca-cleaned, alpaca (swift datasets)"
    ]
    with pytest.raises(ConfigError, match=r"^--dataset: me/alpaca-enn is not there$"):
        locate_dataset("me/alpaca-enn")


@pytest.mark.parametrize("name", ["sql-create-context", "b-mc2/sql-create-context"])
def test_columns_get_the_names_that_its_form_reads(
    fetched: list[tuple[str, str]], tmp_path: Path, name: str
) -> None:
    content = [
        {"question": "q", "context": "c", "answer": "a", "instruction": "old", "other": [1]},
        {"question": "q"},
        "no object",
    ]
    text = "".join(json.dumps(row) + "\n" for row in content) + "{broken\n"
    (tmp_path / "train.jsonl").write_text(text)
    [source] = open_sources([f"{name}#50"], locate_dataset)
    assert source.name == f"{name}/train.jsonl"
    [block] = blocks(source, 1)
    assert block.lines == [1, 2, 3, 4]
    assert [json.loads(row) for row in block.rows[:3]] == [
        {"other": [1], "instruction": "q", "input": "c", "output": "a"},
        {"instruction": "q"},
        "no object",
    ]
    assert block.rows[3] == b"{broken\n"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("gsm8k", ["main/train.jsonl"]),
        ("gsm8k:train", ["main/train.jsonl"]),
        ("gsm8k:test", ["main/test.jsonl"]),
        ("gsm8k:socratic/test", ["socratic/test.jsonl"]),
        ("gsm8k:all", ["main/train.jsonl", "socratic/train.jsonl"]),
        ("ms::modelscope/gsm8k", ["main/train.jsonl"]),
        ("hf::openai/gsm8k:all/test", ["main/test.jsonl", "socratic/test.jsonl"]),
        ("clue", ["main/train.jsonl", "socratic/train.jsonl"]),  # its first one is not there
    ],
)
def test_of_several_subsets_the_first_is_read(
    fetched: list[tuple[str, str]], tmp_path: Path, name: str, files: list[str]
) -> None:
    for subset in ("main", "socratic"):
        (tmp_path / subset).mkdir()
        for split in ("train", "test"):
            (tmp_path / subset / f"{split}.jsonl").write_text('{"question": "q"}\n')
    found = open_sources([name], locate_dataset)
    assert [str(one.path.relative_to(tmp_path)) for one in found] == files


def test_a_name_needs_nothing_on_this_machine() -> None:
    check_inputs([], [], {"--dataset": ["alpaca-en#500", "gsm8k:main/test", "ms::iic/ms_bench"]})
    assert entry_of("openai/gsm8k") is entry_of("gsm8k") is entry_of("modelscope/gsm8k")
    assert entry_of("coco_vqa") is entry_of("coco-vqa") is not None
    assert entry_of("nobody/nothing") is None


# swift datasets


def swift(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swift", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_lists_all() -> None:
    done = swift("datasets")
    assert (done.returncode, done.stderr) == (0, "")
    squeezed = re.sub(r"\s+", "", done.stdout)
    for name, entry in catalog().items():
        assert name in squeezed
        assert all(one in squeezed for one in entry.ids.values()), name
    count = len(catalog())
    assert done.stdout.splitlines()[-1] == (
        f"{count} of {count} data sets; --dataset alpaca-en#500 takes 500 rows of the first"
    )


def test_words_narrow_it_down() -> None:
    assert [entry.name for entry in search(["alpaca-gpt4", "ZH"])] == ["alpaca-zh"]
    assert {entry.task for entry in search(["ocr"])} == {"ocr"}
    assert all("zh" in entry.languages for entry in search(["law"]))
    lines = swift("datasets", "sql-create").stdout.splitlines()
    assert lines[0].split() == ["name", "for", "form", "ids;", "subsets;", "columns", "renamed"]
    assert [line.split() for line in lines[1:]] == [
        ["sql-create-context", "sft", "sql", "en", "instruction", "hf::b-mc2/sql-create-context"],
        ["ms::AI-ModelScope/sql-create-context"],
        ["question", "->", "instruction"],
        ["context", "->", "input"],
        ["answer", "->", "output"],
        [
            "1",
            "of",
            "229",
            "data",
            "sets;",
            "--dataset",
            "sql-create-context#500",
            "takes",
            "500",
            "rows",
            "of",
            "the",
            "first",
        ],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["maths"], "no data set has 'maths'; did you mean math or mathr or math-plus?"),
        (["vqa", "sql"], "no data set has all of vqa sql; leave one out"),
        (["qqqqqq"], "no data set has 'qqqqqq'; swift datasets lists all"),
    ],
)
def test_nothing_found_is_one_clear_line(words: list[str], said: str) -> None:
    done = swift("datasets", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"swift datasets: {said}\n")


def test_it_starts_light() -> None:
    heavy = ("torch", "transformers", "numpy", "pyarrow", "pydantic", "huggingface_hub")
    spy = (
        "import sys; from swift.cli import main; main(['datasets'])\n"
        f"print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"
