"""It learns: sums, from a model that is right now and then."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swift.config.rollout import RolloutSection
from swift.parallel.world import World
from swift.recipes import grpo

pytest.importorskip("reasoning_gym")


def bench() -> ModuleType:
    file = Path(__file__).parents[2] / "bench/grpo.py"
    spec = importlib.util.spec_from_file_location("bench_grpo", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "source"),
    [("grpo", {}), ("grpo", {"mode": "colocate", "asynchronous": True}), ("ppo", {})],
)
def test_unseen_sums_are_right_more_often(
    tmp_path: Path, kind: str, source: dict[str, Any]
) -> None:
    sums = bench()
    data = sums.sums(6000, 0)
    unseen, warm, learn = data[:500], data[500:1500], data[1500:]
    sums.warm_model(tmp_path / "model", warm, 0, 400)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in learn))
    config = sums.config_of(tmp_path, kind, seed=0, steps=60, learning_rate=3e-4)
    drawn = RolloutSection.model_validate({**config.rollout.model_dump(), **source})
    result = grpo.run(config.model_copy(update={"rollout": drawn}), World())
    assert result is not None
    before = sums.accuracy(tmp_path / "model", unseen)
    assert sums.accuracy(Path(result.checkpoint), unseen) >= before + 0.1
