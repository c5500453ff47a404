"""A merged model is the model with its adapter, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny
from contracts.tiny_config import tiny_config
from swift.config.tuner import LoraSection
from swift.errors import CheckpointError
from swift.models.save import save_model, saved_keys
from swift.tune.lora import attach
from swift.tune.merge import merge

TOKENS = torch.arange(3, 60)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits.float()


def in_format(dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny.make_config(**changes), dtype=dtype)


def trained(model: PreTrainedModel | None = None, **settings: Any) -> PeftModel:
    """A model with an adapter that says something."""
    torch.manual_seed(0)
    tuned = attach(LoraSection(**settings), (model or tiny.make_model()).eval(), [], "base")
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert tuned.peft is not None
    return tuned.peft


@pytest.mark.parametrize(
    "settings", [{}, {"rslora": True}, {"dora": True}, {"targets": ["embed_tokens", "q_proj"]}]
)
def test_merged_equals_side_by_side_in_float32(settings: dict[str, Any]) -> None:
    peft = trained(tiny.make_model(tie_word_embeddings=False), **settings)
    expected = logits(peft)
    merged = merge(peft)
    assert (logits(merged.model) - expected).norm() <= 1e-5 * expected.norm()
    assert not any("lora" in name for name, _ in merged.model.named_modules())
    assert merged.rounding <= 1.0 and merged.logits < 1e-5


def test_merged_is_as_near_to_the_exact_model_as_side_by_side_in_bfloat16() -> None:
    """Bfloat16 keeps 8 bits of every weight and every result; merging adds no more than that."""
    peft, exact = trained(in_format(torch.bfloat16)), trained(in_format(torch.float32))
    exact.load_state_dict({name: w.float() for name, w in peft.state_dict().items()})
    truth = logits(exact)
    side_by_side = (logits(peft) - truth).norm() / truth.norm()
    merged = merge(peft)
    error = (logits(merged.model) - truth).norm() / truth.norm()
    assert merged.model.dtype == torch.bfloat16
    assert 0 < merged.rounding <= 1.0
    assert error < 2 * side_by_side < 0.1


def test_every_layer_is_counted() -> None:
    assert merge(trained()).weights == 3 * 7


def test_layers_that_are_not_linear_are_merged_too() -> None:
    """GPT-2 writes its weights the other way round."""
    torch.manual_seed(0)
    peft = trained(AutoModelForCausalLM.from_config(tiny_config("gpt2")))
    expected = logits(peft)
    torch.testing.assert_close(logits(merge(peft).model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merged_folder_has_the_names_of_the_base(
    tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = in_format(dtype, tie_word_embeddings=tied)
    save_model(base, tmp_path / "base", dtype=dtype)
    merged = merge(trained(base)).model
    save_model(merged, tmp_path / "merged", dtype=dtype)
    assert saved_keys(tmp_path / "merged") == saved_keys(tmp_path / "base")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert again.dtype == dtype
    assert torch.equal(logits(again), logits(merged))


def tamper(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """Have the merging of the second layer's up_proj get one weight wrong."""
    merge_layer = PeftLinear.merge
    count = 0

    def wrong(self: PeftLinear, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        merge_layer(self, *args, **kwargs)
        count += 1
        if count == 9:
            self.get_base_layer().weight.data[3, 5] += amount

    monkeypatch.setattr(PeftLinear, "merge", wrong)


@pytest.mark.parametrize(
    ("dtype", "amount"),
    [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float32, float("nan"))],
)
def test_one_wrong_weight_is_an_error_naming_the_layer(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, amount: float
) -> None:
    peft = trained(in_format(dtype))
    tamper(monkeypatch, amount)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.k_proj: merging changed"):
        merge(peft)


def test_a_wrong_weight_of_another_kind_of_adapter_shows_in_the_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peft = trained(dora=True)
    tamper(monkeypatch, 1.0)
    with pytest.raises(CheckpointError, match="the merged model's logits differ"):
        merge(peft)


def test_an_adapter_on_a_tied_head_cannot_be_merged_unnoticed() -> None:
    """The merged weight would be that of the embedding too."""
    peft = trained(targets=["lm_head"])
    with pytest.raises(CheckpointError, match="logits differ"):
        merge(peft)
