"""The Python API: three lines from data to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

import swift
from swift.errors import ConfigError

TINY = {"report_to": "none", "max_steps": 2, "logging_steps": 1}


def test_three_lines(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    run = swift.sft(
        model=str(checkpoint), dataset=[str(rows)], lora_rank=4, output_dir=str(tmp_path / "run"),
        **TINY,
    )  # fmt: skip
    assert isinstance(run.chat("Who are you?", max_new_tokens=4), str)
    assert run.outcome.steps == 2 and Path(run.checkpoint).name == "checkpoint-2"
    folder = swift.merge(adapters=[run.checkpoint], output_dir=str(tmp_path / "merged"))
    assert folder is not None
    with_adapter = swift.Chat(adapters=[run.checkpoint], max_new_tokens=6)
    merged = swift.Chat(model=str(folder), max_new_tokens=6)
    questions = ["Who are you?", "What is it?"]
    assert with_adapter.ask(questions) == merged.ask(questions)
    with_adapter("Hello")
    assert [message.role for message in with_adapter.history] == ["user", "assistant"]


def test_sections_and_configurations_say_the_same(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    flat = {"model": str(checkpoint), "dataset": [str(rows)], "output_dir": str(tmp_path / "a")}
    nested = {
        "model": {"path": str(checkpoint)},
        "data": {"train": [str(rows)]},
        "output": str(tmp_path / "b"),
    }
    a = swift.sft(**flat, **TINY)
    b = swift.sft(swift.SftConfig(**nested, report=[], train={"max_steps": 2, "log_every": 1}))
    weights = [Path(run.checkpoint, "adapter_model.safetensors").read_bytes() for run in (a, b)]
    assert weights[0] == weights[1]


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        swift.sft(lora_rnk=3, num_train_epochs="three")
    text = str(caught.value)
    for word in ("lora_rnk", "did you mean lora_rank", "num_train_epochs", "--model", "--dataset"):
        assert word in text


def test_pt_from_python(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Swifts fly for months. " * 30)
    run = swift.pt(
        model=str(checkpoint), dataset=str(tmp_path / "text.txt"), max_length=64,
        output_dir=str(tmp_path / "run"), **TINY,
    )  # fmt: skip
    assert run.outcome.reason == "done"


def test_importing_swift_costs_nothing() -> None:
    import subprocess
    import sys

    code = "import sys, swift; assert 'torch' not in sys.modules; print(swift.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == swift.__version__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = swift.nonsense
