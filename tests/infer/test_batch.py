from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from processes import fail, run, start


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def infer(checkpoint: Path, rows: Path, *more: object) -> list[object]:
    return [
        "infer", "--model", checkpoint, "--val_dataset", rows, "--max_new_tokens", 8,
        "--result_path", "answers.jsonl", *more,
    ]  # fmt: skip


def test_every_row_has_a_line_in_order(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    run(infer(checkpoint, rows, "--max_batch_size", 7), tmp_path)
    found = lines(tmp_path / "answers.jsonl")
    assert [line["row"] for line in found] == list(range(40))
    first = json.loads(rows.read_text().splitlines()[0])["messages"]
    assert found[0]["labels"] == first[-1]["content"]
    assert [m["content"] for m in found[0]["messages"][:-1]] == [m["content"] for m in first[:-1]]
    assert found[0]["messages"][-1] == {"role": "assistant", "content": found[0]["response"]}
    run(infer(checkpoint, rows, "--max_batch_size", 1, "--result_path", "single.jsonl"), tmp_path)
    single = lines(tmp_path / "single.jsonl")
    assert [line["response"] for line in single] == [line["response"] for line in found]


def test_a_killed_run_answers_only_what_is_missing(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "answers.jsonl"
    run(infer(checkpoint, rows), tmp_path)
    expected = whole.read_text()
    whole.unlink()
    words = infer(checkpoint, rows, "--max_batch_size", 2)
    command = start(words, tmp_path)
    command.wait_for(lambda: whole.exists() and len(whole.read_bytes().splitlines()) >= 6)
    command.kill()
    with whole.open("a") as file:
        file.write('{"row": 39, "respo')  # what a kill in the middle of a write leaves
    text = run(words, tmp_path)
    assert whole.read_text() == expected
    assert f"  {len(expected.splitlines())} rows" in text


def test_rows_that_cannot_be_answered_have_a_line_that_says_why(
    checkpoint: Path, tmp_path: Path
) -> None:
    rows = tiny.write_rows(
        tmp_path / "mixed.jsonl",
        [
            {"query": "What is it?"},
            {"nothing": "known"},
            {"query": "long " * 2000},
            {"messages": [{"role": "user", "content": "And this?"}]},
            {"question": "renamed?", "answer": "yes"},
        ],
    )
    text = run(infer(checkpoint, rows), tmp_path)
    found = lines(tmp_path / "answers.jsonl")
    assert ["error" in line for line in found] == [False, True, True, False, False]
    assert "columns not understood: nothing" in found[1]["error"]
    assert found[1]["place"].endswith("mixed.jsonl:2")
    assert "context holds 512" in found[2]["error"]
    assert found[4]["labels"] == "yes"
    assert "2 rows could not be answered" in text


def test_a_result_file_of_something_else_is_left_alone(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "answers.jsonl").write_text('{"mine": 1}\n{"mine": 2}\n')
    code, text = fail(infer(checkpoint, rows), tmp_path)
    assert code == 2 and "is not a result of swift infer" in text
    assert (tmp_path / "answers.jsonl").read_text() == '{"mine": 1}\n{"mine": 2}\n'


@pytest.mark.parametrize("flag", ["--adapters", "--model"])
def test_what_does_not_exist_is_named(flag: str, rows: Path, tmp_path: Path) -> None:
    code, text = fail(["infer", flag, "./nowhere", "--val_dataset", rows], tmp_path)
    assert code == 2 and "nowhere" in text
