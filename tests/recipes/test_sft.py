"""The commands end to end, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import tiny
from processes import fail, run

QUIET = ("--report_to", "none", "--logging_steps", 1)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_leaves_a_folder_that_runs_again(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--output_dir", "run"]
    text = run([*words, "--max_steps", 3, "--save_steps", 2, "--logging_steps", 1], tmp_path)
    folder = tmp_path / "run"
    assert files(folder) == {
        "checkpoint-2", "checkpoint-3", "config.yaml", "metrics.jsonl", "loss.png", "ledger.json",
        "tensorboard", "result.json",
    }  # fmt: skip
    for word in ("loss", "accuracy", "lr", "grad norm", "tokens/s", "GiB", "left"):
        assert word in text
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    run(["sft", folder / "config.yaml", *QUIET], tmp_path)  # the same configuration: a new folder
    again = folder / "v1"
    first, second = (
        load_file(path / "checkpoint-3/adapter_model.safetensors") for path in (folder, again)
    )
    assert all((first[name] == second[name]).all() for name in first)
    run(["sft", "--config", folder / "config.yaml", *QUIET, "--max_steps", 1], tmp_path)
    assert (folder / "v2/checkpoint-1").is_dir()


def test_tensorboard_has_what_metrics_jsonl_has(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["sft", "--model", checkpoint, "--dataset", rows, "--output_dir", "run"]
    run([*words, "--max_steps", 3, "--logging_steps", 1], tmp_path)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    seen = [scalar.value for scalar in events.Scalars("train/loss")]
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert seen == pytest.approx([line["train/loss"] for line in lines], rel=1e-6)


def test_pt_learns_every_token_of_documents(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Swifts sleep on the wing. " * 60)
    tiny.write_rows(tmp_path / "notes.jsonl", [{"text": f"Note {i}. It is so."} for i in range(9)])
    words = ["pt", "--model", checkpoint, "--dataset", "book.txt", "notes.jsonl"]
    words += ["--max_length", "64", "--max_steps", "2", "--output_dir", "run", *map(str, QUIET)]
    text = run(words, tmp_path)
    assert "100% of them learned" not in text  # a first token is not predicted
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["data"]["packing"] is True and config["data"]["learn"] == "all"
    code, text = fail([*words[:3], "--dataset", "c.jsonl"], tmp_path)
    assert code == 2 and "c.jsonl does not exist" in text


def test_sft_refuses_plain_text_and_pt_conversations(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    tiny.write_rows(tmp_path / "text.jsonl", [{"text": "only text"}])
    code, text = fail(["sft", "--model", checkpoint, "--dataset", "text.jsonl"], tmp_path)
    assert code == 2 and "use swift pt" in text
    code, text = fail(["pt", "--model", checkpoint, "--dataset", rows], tmp_path)
    assert code == 2 and "use swift sft" in text


@pytest.mark.parametrize("words", [["check"], ["sft", "--dry_run"], ["check", "sft"]])
def test_a_dry_run_says_what_would_happen_and_leaves_nothing(
    checkpoint: Path, rows: Path, tmp_path: Path, words: list[str]
) -> None:
    text = run([*words, "--model", checkpoint, "--dataset", rows, "--output_dir", "run"], tmp_path)
    for word in ("40", "to train on", "of which", "steps", "lora_A", "frozen", "activations",
                 "metrics.jsonl", "<|im_start|>assistant"):  # fmt: skip
        assert word in text
    assert not (tmp_path / "run").exists()


def test_the_check_counts_what_the_run_then_does(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = ["--model", checkpoint, "--dataset", rows, "--per_device_train_batch_size", 4]
    words += ["--gradient_accumulation_steps", 2, "--num_train_epochs", 2, *QUIET]
    checked = run(["check", *words], tmp_path)
    text = run(["sft", *words, "--output_dir", "run"], tmp_path)
    assert "10 (5 an epoch" in checked and "10 steps" in text
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 10


def test_an_adapter_is_trained_on(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--max_steps", 2, *QUIET]
    run([*words, "--output_dir", "first"], tmp_path)
    run([*words, "--output_dir", "second", "--adapters", "first/checkpoint-2"], tmp_path)
    losses = []
    for name in ("first", "second"):
        line = (tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]
        losses.append(json.loads(line)["train/loss"])
    assert losses[1] < losses[0]
    merged = ["--adapters", "first/checkpoint-2", "--merge_lora", "true", "--output_dir", "third"]
    run([*words, *merged], tmp_path)
    line = (tmp_path / "third/metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["train/loss"] == pytest.approx(losses[1], rel=1e-5)


def test_a_full_fine_tune_is_a_model(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--tuner_type", "full", *QUIET]
    run([*words, "--max_steps", 2, "--output_dir", "run"], tmp_path)
    answer = ["infer", "--model", "run/checkpoint-2", "--val_dataset", f"{rows}#3"]
    run([*answer, "--max_new_tokens", 3, "--result_path", "a.jsonl"], tmp_path)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3


def test_the_template_that_was_trained_with_is_the_one_that_serves(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    template = tiny.CHATML.replace("{% for", "START {% for", 1)
    (tmp_path / "mine.jinja").write_text(template)
    words = ["sft", "--model", checkpoint, "--dataset", rows, "--chat_template", "mine.jinja"]
    for kind in ("lora", "full"):
        more = ["--tuner_type", kind, "--max_steps", 1, "--output_dir", kind, *QUIET]
        run([*words, *more, "--system", "Be a bird."], tmp_path)
        saved = (tmp_path / kind / "checkpoint-1/chat_template.jinja").read_text()
        assert saved == template


def test_identity_rows_take_name_and_author(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_rows(
        tmp_path / "self.jsonl",
        [
            {"query": "Who are you?", "response": "I am {{NAME}} by {{AUTHOR}}."},
            {"query": "你是谁？", "response": "我是{{NAME}}，由{{AUTHOR}}开发。"},
        ],
    )
    words = ["check", "--model", checkpoint, "--dataset", "self.jsonl", "--data.shuffle", "false"]
    names = ["--model_name", "小鸟", 'Ap"us', "--model_author", "雨燕", "Swift"]
    assert 'I am Ap"us by Swift.' in run([*words, *names], tmp_path)
