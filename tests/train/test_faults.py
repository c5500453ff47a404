"""What breaks around a run, for real: disk, memory, trackers, numbers that are none, rows."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

import tiny
from processes import fail, run, start
from swift.train.checkpoint import checkpoints


def sft(checkpoint: Path, rows: Path, *more: object) -> list[object]:
    return ["sft", "--model", checkpoint, "--dataset", rows, "--output_dir", "run", *more]


FULL = ("--tuner_type", "full", "--report_to", "none", "--logging_steps", 1)


def test_a_full_disk_keeps_the_last_checkpoint(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    words = sft(checkpoint, rows, *FULL, "--save_steps", 2, "--num_train_epochs", 200)
    command = start(words, tmp_path)
    command.wait_for((tmp_path / "run/checkpoint-2").is_dir)
    pid = command.processes[0].pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    assert command.wait() == 1
    text = command.text()
    assert "cannot be written" in text and "is complete" in text and "--resume" in text
    assert "Traceback" not in text
    done = max(checkpoints(tmp_path / "run"))[1]
    assert str(done.relative_to(tmp_path)) in text
    assert not list((tmp_path / "run").glob(".checkpoint-*"))
    steps = max(checkpoints(tmp_path / "run"))[0] + 2
    run([*words, "--resume", "--max_steps", steps], tmp_path)


def test_out_of_memory_names_the_knobs(tmp_path: Path) -> None:
    model = tiny.save_checkpoint(
        tmp_path / "wide", hidden_size=256, intermediate_size=4096, max_position_embeddings=4096
    )
    long = [{"query": "say it again " * 30, "response": "again and again " * 60}] * 16
    rows = tiny.write_rows(tmp_path / "long.jsonl", long)
    words = sft(model, rows, *FULL, "--per_device_train_batch_size", 16)
    command = start(
        [*words, "--gradient_checkpointing", "false", "--num_train_epochs", 300], tmp_path
    )
    command.wait_for(lambda: "run: " in command.text())
    pid = command.processes[0].pid
    assert pid is not None
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (150 << 20), used + (150 << 20)))
    assert command.wait() == 1, command.text()
    text = command.text()
    assert "out of memory" in text and "Traceback" not in text
    for knob in ("--gradient_checkpointing true", "--per_device_train_batch_size 8", "lora"):
        assert knob in text
    assert text.count("saves about") >= 3


def test_a_gradient_that_is_not_a_number_stops_the_run_and_names_the_rows(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    wild = ("--learning_rate", 1e25, "--max_grad_norm", 0, "--save_steps", 1)
    code, text = fail(sft(checkpoint, rows, *FULL, *wild), tmp_path)
    assert code == 1
    assert "step 2: the gradient is nan" in text and "chats.jsonl:" in text
    assert [n for n, _ in checkpoints(tmp_path / "run")] == [1]


@pytest.mark.parametrize("tracker", ["wandb", "swanlab"])
def test_a_missing_tracker_is_dropped_with_the_command_to_install_it(
    checkpoint: Path, rows: Path, tmp_path: Path, tracker: str
) -> None:
    try:
        __import__(tracker)
    except ModuleNotFoundError:
        pass
    else:
        pytest.skip(f"{tracker} is installed here")
    text = run(sft(checkpoint, rows, "--report_to", tracker, "--max_steps", 1), tmp_path)
    assert f"needs {tracker}: pip install 'swift-llm[{tracker}]'; the run goes on" in text
    assert (tmp_path / "run/checkpoint-1").is_dir()


def test_a_tracker_that_fails_while_running_never_stops_a_run(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "moody.py"
    plugin.write_text(
        "from swift import registry\n"
        "class Moody:\n"
        "    def __init__(self, folder, name, config): self.n = 0\n"
        "    def log(self, step, metrics):\n"
        "        self.n += 1\n"
        "        if self.n == 2: raise ConnectionError('the tracker is away')\n"
        "    def close(self): raise RuntimeError('never called once dropped')\n"
        "registry.register('sink', 'moody', f'{__name__}:Moody')\n"
    )
    words = sft(checkpoint, rows, "--report_to", "moody", "--external_plugins", plugin)
    text = run([*words, "--max_steps", 4, "--logging_steps", 1], tmp_path)
    assert text.count("warning") == 1 and "the tracker is away" in text
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 4


def test_an_unknown_tracker_is_named(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    code, text = fail(sft(checkpoint, rows, "--report_to", "tensorbord"), tmp_path)
    assert code == 2
    assert "'tensorbord' is not one of tensorboard, wandb, swanlab, none" in text


def test_broken_rows_are_told_and_counted(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    with rows.open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "only a question"}]}\nnot json\n')
    text = run(sft(checkpoint, rows, "--max_steps", 1), tmp_path)
    assert "2 of 42 rows are not used" in text and "chats.jsonl:42: not JSON" in text
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    assert next(iter(ledger.values()))["kept"] == 40
    code, text = fail(sft(checkpoint, rows, "--strict"), tmp_path)
    assert code == 2
    assert "chats.jsonl:41: the last message is from 'user'" in text
