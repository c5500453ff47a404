"""Several processes through the real launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = [sys.executable, "-m", "swift"]


def swift(folder: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*WORDS, *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_train_and_a_signal_to_all_of_them_saves(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    process = swift(
        tmp_path, "sft", "--model", checkpoint, "--dataset", rows, "--output_dir", "run",
        "--num_train_epochs", 1000, "--report_to", "none", "--dataloader_num_workers", 1,
        "--logging_steps", 5, NPROC_PER_NODE="2",
    )  # fmt: skip
    metrics = tmp_path / "run/metrics.jsonl"
    end = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: launcher, processes, workers
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 143, text
    assert "stopped as asked" in text and "Traceback" not in text
    assert list((tmp_path / "run").glob("checkpoint-*/trainer/random-1.pt"))


@pytest.mark.slow
def test_an_error_is_said_once_and_ends_with_its_code(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("no json\n")
    process = swift(
        tmp_path, "sft", "--model", checkpoint, "--dataset", "bad.jsonl", NPROC_PER_NODE="2"
    )
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 2, text
    assert text.count("none of the 1 rows can be used") == 1
    assert "Traceback" not in text


def test_a_number_of_processes_that_is_none_is_named(tmp_path: Path) -> None:
    process = swift(tmp_path, "sft", "--model", "x", "--dataset", "y", NPROC_PER_NODE="two")
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert text == "swift sft: NPROC_PER_NODE=two: should be a number of at least 1\n"
