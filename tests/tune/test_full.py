"""Full training: what is frozen by name stays."""

from __future__ import annotations

from typing import Any

import pytest

import tiny
from swift.config.tuner import FullSection
from swift.errors import ConfigError
from swift.tune.full import attach


def learning(**settings: Any) -> set[str]:
    model = tiny.make_model(tie_word_embeddings=False)
    model.model.norm.requires_grad_(False)  # what was set before does not matter
    tuned = attach(FullSection(**settings), model, [], "base")
    assert tuned.model is model and tuned.peft is None
    return {name for name, p in model.named_parameters() if p.requires_grad}


ALL = {name for name, _ in tiny.make_model(tie_word_embeddings=False).named_parameters()}


def test_everything_learns() -> None:
    assert learning() == ALL


def test_freeze_by_the_beginning_of_names() -> None:
    frozen = {name for name in ALL if name.startswith(("model.embed_tokens", "model.layers.0."))}
    assert len(frozen) == 1 + 9
    assert learning(freeze=["model.embed_tokens", "model.layers.0."]) == ALL - frozen


def test_freeze_by_a_pattern_anywhere_in_names() -> None:
    frozen = {name for name in ALL if "mlp" in name or name.endswith("norm.weight")}
    assert learning(freeze_regex=r"\.mlp\.|norm\.weight$") == ALL - frozen


def test_learn_wins_over_both() -> None:
    found = learning(freeze=["model"], freeze_regex="lm_head", learn=["model.layers.2.mlp"])
    assert found == {f"model.layers.2.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


@pytest.mark.parametrize("where", ["freeze", "learn"])
def test_a_name_that_matches_nothing_is_an_error(where: str) -> None:
    with pytest.raises(ConfigError, match="no parameter begins with 'modle'"):
        learning(**{where: ["model", "modle"]})


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--freeze_parameters_regex: 'transformer'"):
        learning(freeze_regex="transformer")


def test_a_broken_pattern_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--freeze_parameters_regex"):
        learning(freeze_regex="(")


def test_nothing_left_to_learn_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing is left to learn"):
        learning(freeze=["model", "lm_head"])


def test_an_adapter_is_an_error() -> None:
    with pytest.raises(ConfigError, match="merge them first"):
        attach(FullSection(), tiny.make_model(), ["folder"], "base")
