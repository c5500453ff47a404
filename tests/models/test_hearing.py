"""A model hears the sounds of a batch as transformers computes them, with its real processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from swift.chat.load import load_renderer
from swift.errors import ConfigError, RenderError
from swift.models.attention import attention_of, choose_layout
from swift.models.load import load_model
from swift.models.seeing import see


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_audio_checkpoint(tmp_path_factory.mktemp("ears"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_sounds_in_packs_come_out_as_alone(folder: Path, dtype: torch.dtype) -> None:
    model = load_model(folder, dtype, device=torch.device("cpu"))
    native = attention_of(model)
    layout = choose_layout(model)
    assert layout.packed
    marks = load_renderer(folder).marks
    assert marks.kinds == {"audio"}
    assert see(model, layout, marks, native, ["audio"]) == layout


def test_a_model_that_hears_otherwise_is_refused(folder: Path) -> None:
    model = load_model(folder, torch.float32, device=torch.device("cpu"))
    native, tower = attention_of(model), model.model.audio_tower
    heard = tower.forward

    def mixed(*args: object, **kwargs: object) -> object:  # each sound hears the others
        out = heard(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.mean(0, keepdim=True)
        return out

    tower.forward = mixed
    marks = load_renderer(folder).marks
    with pytest.raises(ConfigError, match=r"does not take the media .* as transformers computes"):
        see(model, choose_layout(model), marks, native, ["audio"])


def test_a_kind_that_the_checkpoint_does_not_take(folder: Path) -> None:
    model = load_model(folder, torch.float32, device=torch.device("cpu"))
    marks = load_renderer(folder).marks
    with pytest.raises(RenderError, match="says where an image stands"):
        see(model, choose_layout(model), marks, attention_of(model), ["image"])
