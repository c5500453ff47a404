"""New weights as files: all of them or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swift.errors import ConfigError
from swift.infer.backends import weights
from swift.infer.backends.weights import laid_out
from tiny import make_model, save_checkpoint


def read(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.iterdir())
    assert all(file.suffix == ".safetensors" for file in files)
    parts = [load_file(file) for file in files]
    assert sum(map(len, parts)) == len({name for part in parts for name in part})
    return {name: tensor for part in parts for name, tensor in part.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", [2 << 30, 20_000])
def test_all_weights_are_there_and_go_away_again(
    tmp_path: Path, tied: bool, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_SHARD", shard)
    model = save_checkpoint(tmp_path, tie_word_embeddings=tied)
    given = make_model(seed=1, tie_word_embeddings=tied).state_dict()
    for asked in (given, {n: t for n, t in given.items() if not (tied and n == "lm_head.weight")}):
        with laid_out(asked.items(), model) as folder:
            found = read(folder)
            assert (len(list(folder.iterdir())) > 1) == (shard == 20_000)
        assert not folder.exists()
        assert found.keys() == given.keys()
        assert all(torch.equal(found[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("model.nothing.weight", 48, "the model has no model.nothing.weight"),
        ("model.norm.weight", 3, r"model.norm.weight has the shape \(48,\), not \(3,\)"),
        ("model.norm.weight", 48, "all are needed at once, model.embed_tokens.weight, model.lay"),
    ],
)
def test_others_are_refused(tmp_path: Path, name: str, size: int, why: str) -> None:
    model = save_checkpoint(tmp_path)
    asked = [(name, torch.zeros(size))]
    with pytest.raises(ConfigError, match=why), laid_out(asked, model):
        pass
