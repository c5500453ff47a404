"""Tokens in a folder: learned from as if the rows were there, refused where they would not fit."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import tiny
from processes import fail, run

SFT = ("--report_to", "none", "--logging_steps", 1, "--num_train_epochs", 2, "--max_length", 80,
       "--gradient_accumulation_steps", 4, "--learning_rate", 1e-3)  # fmt: skip


def export(checkpoint: Path, rows: Path, folder: Path, *more: object) -> str:
    words = ["export", "--model", checkpoint, "--to_cached_dataset", "true", "--dataset", rows]
    return run([*words, "--output_dir", "tokens", *more], folder)


def losses(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def accounts(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name / "ledger.json").read_text())
    return content


@pytest.mark.parametrize("more", [(), ("--packing",)], ids=["plain", "packed"])
def test_a_run_from_tokens_is_the_run_from_rows(
    checkpoint: Path, tmp_path: Path, more: tuple[object, ...]
) -> None:
    (tmp_path / "here").mkdir()
    rows = tiny.write_rows(tmp_path / "here/chats.jsonl", [*tiny.chats(30), {"a": 1}])
    text = export(checkpoint, rows, tmp_path)
    assert "--cached_dataset tokens" in text and "1 of 31 rows are not used" in text
    sft = ["sft", "--model", checkpoint, *SFT, *more]
    run([*sft, "--dataset", rows, "--output_dir", "rows"], tmp_path)
    rows.unlink()  # tokens are all that is needed
    (tmp_path / "tokens").rename(tmp_path / "sent")
    run([*sft, "--cached_dataset", "sent", "--output_dir", "cached"], tmp_path)
    assert losses(tmp_path, "rows") == losses(tmp_path, "cached")
    assert accounts(tmp_path, "rows") == accounts(tmp_path, "cached")
    text = run(["trace", "cached", "--step", 1], tmp_path)
    assert "chats.jsonl:" in text and "as metrics.jsonl says" in text


def test_a_part_to_evaluate_on(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    export(checkpoint, rows, tmp_path, "--split_dataset_ratio", 0.3)
    parts = {}
    for name in ("train", "val"):
        index = json.loads((tmp_path / "tokens" / name / "tokens.json").read_text())
        runs = [run for file in index["files"] for run in file["lines"]]
        parts[name] = [first + i for first, count in runs for i in range(count)]
    assert sorted(parts["train"] + parts["val"]) == list(range(1, 41))
    assert 5 < len(parts["val"]) < 20
    flags = ["--cached_dataset", "tokens/train", "--cached_val_dataset", "tokens/val"]
    run(["sft", "--model", checkpoint, *SFT, *flags, "--output_dir", "run"], tmp_path)
    assert '"eval/loss"' in (tmp_path / "run/metrics.jsonl").read_text()
    ledger = accounts(tmp_path, "run")
    assert [account["rows"] for account in ledger.values()] == [40]


def test_rows_and_tokens_together(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    export(checkpoint, rows, tmp_path)
    other = tiny.write_rows(tmp_path / "other.jsonl", tiny.chats(6))
    words = ["check", "--model", checkpoint, "--dataset", other, "--cached_dataset", "tokens"]
    assert "46 to train on" in run(words, tmp_path)
    text = run([*words, "--interleave_prob", 0.5, 0.5], tmp_path)
    drawn = re.search(r"(\d+) to train on", text)
    assert drawn and 6 <= int(drawn[1]) < 46
    code, text = fail([*words, "--interleave_prob", 0.5], tmp_path)
    assert code == 2 and "1 given for 2 data sets" in text


def test_equal_blocks_and_several_files(checkpoint: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    for name in ("a", "b"):
        tiny.write_rows(rows / f"{name}.jsonl", tiny.chats(5))
    export(checkpoint, rows, tmp_path)
    index = json.loads((tmp_path / "tokens/train/tokens.json").read_text())
    assert Counter(Path(file["source"]).name for file in index["files"]) == {
        "a.jsonl": 1,
        "b.jsonl": 1,
    }


def test_plain_text(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"Text {i} here."}) + "\n" for i in range(9)))
    words = ["--model", checkpoint, "--to_cached_dataset", "--dataset", texts]
    run(["export", "pt", *words, "--output_dir", "tokens"], tmp_path)
    pt = ["--model", checkpoint, "--cached_dataset", "tokens", "--max_length", 64]
    assert "9 to train on" in run(["check", "pt", *pt], tmp_path)
    code, text = fail(["check", "sft", *pt], tmp_path)
    assert code == 2 and "another swift sft and swift pt ('text', now 'chat')" in text


def test_tokens_that_do_not_fit(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    export(checkpoint, rows, tmp_path, "--system", "Be brief.")
    words = ["check", "--model", checkpoint, "--cached_dataset", "tokens"]
    run(words, tmp_path)
    run([*words, "--system", "Be brief."], tmp_path)
    for more, why in (
        (["--system", "Be long."], "another --system ('Be brief.', now 'Be long.')"),
        (["--loss_scale", "last_round"], "another --loss_scale ('default', now 'last_round')"),
        (["--template", "vicuna"], "not those that this model's tokenizer and template make"),
        (["--streaming", "--max_steps", 2], "tokens that are made already"),
    ):
        code, text = fail([*words, *more], tmp_path)
        assert code == 2 and why in " ".join(text.split()), text


def test_damaged_or_absent(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    export(checkpoint, rows, tmp_path)
    words = ["check", "--model", checkpoint, "--cached_dataset"]
    code, text = fail([*words, "nothing"], tmp_path)
    assert code == 2 and "nothing holds no tokens.json" in text
    for name, harm in (("tokens.json", b'{"files": 1}'), ("000000.arrow", b"ARROW1")):
        shutil.copytree(tmp_path / "tokens", tmp_path / "bad", dirs_exist_ok=True)
        (tmp_path / "bad/train" / name).write_bytes(harm)
        code, text = fail([*words, "bad"], tmp_path)
        assert name in text
        shutil.copy(tmp_path / "tokens/train" / name, tmp_path / "bad/train" / name)
    (tmp_path / "bad/train/000000.arrow").unlink()
    assert "no tokens can be read from it" in fail([*words, "bad"], tmp_path)[1]


def test_nothing_is_written_over(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["--model", checkpoint, "--to_cached_dataset", "true", "--dataset", rows]
    text = run(["export", *words, "--output_dir", "tokens", "--dry_run"], tmp_path)
    assert "would write the tokens of" in text and not (tmp_path / "tokens").exists()
    export(checkpoint, rows, tmp_path)
    code, text = fail(["export", *words, "--output_dir", "tokens"], tmp_path)
    assert code == 2 and "tokens is not empty" in text
    code, text = fail(["export", "--to_cached_dataset", "true"], tmp_path)
    assert code == 2 and "--model: is needed" in text and "--dataset: is needed" in text
    assert "--to_cached_dataset" in run(["export", "--to_cached_dataset", "--help"], tmp_path)


def test_no_data_at_all(checkpoint: Path, tmp_path: Path) -> None:
    code, text = fail(["sft", "--model", checkpoint, "--packing"], tmp_path)
    assert code == 2 and "--dataset: is needed: files such as chats.jsonl, or hub names" in text


@pytest.mark.parametrize("command", ["export", "stream"])
def test_rows_that_would_have_to_come_back_are_refused(
    checkpoint: Path, tmp_path: Path, command: str
) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.chats(4))
    words = ["--model", checkpoint, "--dataset", "rows.jsonl#9", "--output_dir", "there"]
    stream = ["sft", *words, "--streaming", "true", "--max_steps", 1, "--report_to", "none"]
    tokens = ["export", *words, "--to_cached_dataset", "true"]
    code, said = fail(tokens if command == "export" else stream, tmp_path)
    assert code == 2
    assert "rows.jsonl#9: it has 4 rows" in " ".join(said.split()) and "take at most #4" in said
