"""What every test finds: no hub, a cache of its own, a tiny checkpoint, some conversations."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NPROC_PER_NODE", "NNODES", "MASTER_ADDR"):
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

import tiny  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this test session, also for the processes that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SWIFT_CACHE"] = str(folder)
    yield folder
    del os.environ["SWIFT_CACHE"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tokenizer and ChatML template."""
    return tiny.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of 40 conversations."""
    return tiny.write_rows(tmp_path / "chats.jsonl", tiny.chats(40))
