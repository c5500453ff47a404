"""Our head behind the body gives what the model gives, or says that it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

import tiny
from contracts.tiny_config import tiny_config
from swift.errors import ConfigError
from swift.models.anatomy import body
from swift.models.heads import find_head

TOKENS = torch.arange(3, 40)[None]

ARCHITECTURES = {
    "llama": {},
    "gpt2": {},
    "cohere": {"logit_scale": 0.0625},
    "granite": {"logits_scaling": 8.0},
    "gemma2": {"final_logit_softcapping": 5.0},
    "falcon_h1": {"lm_head_multiplier": 0.5},
    "recurrent_gemma": {"logits_soft_cap": 5.0},
    "xlstm": {"output_logit_soft_cap": 5.0},
    "minicpm3": {"dim_model_base": 8},  # divides by hidden size / this
    "phi": {},  # its head has a bias
}


def make(model_type: str, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    config = tiny_config(model_type)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.no_grad()
def both(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits by our head, and by the model."""
    head = find_head(model)
    hidden = body(model)(input_ids=TOKENS, use_cache=False).last_hidden_state
    return head(hidden), model(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("size", ["as initialized", "large"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_head_gives_the_logits_of_the_model(model_type: str, size: str) -> None:
    model = make(model_type, torch.float32, **ARCHITECTURES[model_type])
    if size == "large":
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(300)
    found, expected = both(model)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name != "xlstm"])
def test_in_bfloat16_too(model_type: str) -> None:
    model = make(model_type, torch.bfloat16, **ARCHITECTURES[model_type])
    found, expected = both(model)
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-2, atol=1e-4)


def test_a_soft_cap_that_small_logits_do_not_reach_is_found() -> None:
    """A fresh model's logits are near 0, where the cap changes nothing yet."""
    model = make("gemma2", torch.float32, final_logit_softcapping=30.0)
    large = torch.full((1, 32), 1e4)
    assert find_head(model)(large).abs().max() <= 30.0


class Offset(LlamaForCausalLM):
    """Does what no setting tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + 0.5
        return out


class Doubled(LlamaForCausalLM):
    """Does it before the head."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        hidden = self.model(input_ids=input_ids, **kwargs).last_hidden_state
        return SimpleNamespace(logits=self.lm_head(2 * hidden))


class Bypassed(LlamaForCausalLM):
    """Uses the weight of its head, not the head."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        hidden = self.model(input_ids=input_ids, **kwargs).last_hidden_state
        return SimpleNamespace(logits=hidden @ self.lm_head.weight.t())


@pytest.mark.parametrize("kind", [Offset, Doubled, Bypassed])
def test_what_is_unknown_is_an_error(kind: type[LlamaForCausalLM]) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=f"{kind.__name__} changes its logits"):
        find_head(kind(tiny.make_config()))


def test_finding_leaves_the_model_as_it_was() -> None:
    model = tiny.make_model().train()
    before = model(input_ids=TOKENS).logits
    find_head(model)
    assert model.training
    assert torch.equal(model(input_ids=TOKENS).logits, before)


def test_the_head_knows_its_parameters_that_learn() -> None:
    model = tiny.make_model(tie_word_embeddings=False)
    head = find_head(model)
    assert [id(p) for p in head.learning()] == [id(model.lm_head.weight)]
    model.lm_head.requires_grad_(False)
    assert head.learning() == []


def test_weights_that_are_no_numbers() -> None:
    model = make("llama", torch.float32)
    with torch.no_grad():
        body(model).layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ConfigError, match=r"not finite numbers.*check the files"):
        find_head(model)
