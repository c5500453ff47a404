"""Packed samples do not see each other, and each comes out as it does alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

import tiny
from contracts.tiny_config import tiny_config
from swift.data.batch import batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.errors import ConfigError
from swift.models.attention import (
    PACKED,
    Layout,
    check_branches,
    choose_layout,
    keeps_borders,
    packed_attention,
    run_body,
)

LENGTHS = (9, 25, 2, 14)


def llama(**changes: Any) -> PreTrainedModel:
    return tiny.make_model(**changes)


def sliding() -> PreTrainedModel:
    """Windows of 6 positions: shorter than most samples."""
    settings = tiny.make_config().to_dict() | {"sliding_window": 6, "model_type": "mistral"}
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig.from_dict(settings))


def without_groups() -> PreTrainedModel:
    return llama(num_key_value_heads=4)


def checkpointing() -> PreTrainedModel:
    model = llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def of_type(model_type: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=dtype).eval()


MODELS = [llama, sliding, without_groups, checkpointing]


def packed_logits(model: PreTrainedModel, samples: list[Sample]) -> list[torch.Tensor]:
    """Logits of every sample of a pack."""
    model.set_attn_implementation(PACKED)
    packed = batch(pack(samples))
    logits = model.lm_head(run_body(model, packed))[0]
    return [logits[a:b] for a, b in zip(packed.bounds, packed.bounds[1:], strict=False)]


def own_logits(model: PreTrainedModel, sample: Sample, attention: str = "sdpa") -> torch.Tensor:
    model.set_attn_implementation(attention)
    tokens = torch.from_numpy(sample.tokens).long()
    return model(input_ids=tokens[None, :-1], use_cache=False).logits[0]


def loss(logits: torch.Tensor, sample: Sample) -> torch.Tensor:
    targets = torch.from_numpy(sample.tokens[1:]).long()
    each = F.cross_entropy(logits, targets, reduction="none")
    return (each * torch.from_numpy(sample.weights[1:])).sum()


def take_gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_changing_one_sample_leaves_the_bits_of_the_others(make: Any, changed: int) -> None:
    model, samples = make(), tiny.samples(*LENGTHS)
    before = packed_logits(model, samples)
    samples[changed] = tiny.samples(*LENGTHS, seed=1)[changed]
    after = packed_logits(model, samples)
    for i in range(len(LENGTHS)):
        assert torch.equal(before[i], after[i]) == (i != changed)


@pytest.mark.parametrize("make", MODELS)
def test_hidden_states_of_the_others_keep_their_bits_too(make: Any) -> None:
    model, samples = make(), tiny.samples(*LENGTHS)
    model.set_attn_implementation(PACKED)
    before = run_body(model, batch(pack(samples)))[0, 8:]
    samples[0] = tiny.samples(9, seed=1)[0]
    assert torch.equal(run_body(model, batch(pack(samples)))[0, 8:], before)


@pytest.mark.parametrize("make", MODELS)
def test_a_pack_gives_the_logits_of_each_sample_alone(make: Any) -> None:
    model, samples = make(), tiny.samples(*LENGTHS)
    for found, sample in zip(packed_logits(model, samples), samples, strict=True):
        torch.testing.assert_close(found, own_logits(model, sample), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", MODELS)
def test_gradients_of_a_pack_are_the_sum_of_separate_ones(make: Any) -> None:
    model, samples = make(), tiny.samples(*LENGTHS)
    sum(loss(own_logits(model, sample), sample) for sample in samples).backward()
    expected = take_gradients(model)
    logits = packed_logits(model, samples)
    sum(loss(x, sample) for x, sample in zip(logits, samples, strict=True)).backward()
    for name, grad in take_gradients(model).items():
        assert (grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_padded_rows_give_the_loss_and_gradients_of_separate_samples() -> None:
    model, samples = of_type("mamba"), tiny.samples(*LENGTHS, vocabulary=128)
    expected = sum(loss(own_logits(model, sample, "eager"), sample) for sample in samples)
    expected.backward()
    right = take_gradients(model)
    padded = batch(pack(samples), packed=False)
    logits = model.lm_head(run_body(model, padded)).flatten(0, 1)[padded.learned_N]
    each = F.cross_entropy(logits, padded.targets_N, reduction="none")
    total = (each * padded.weights_N).sum()
    total.backward()
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    for name, grad in take_gradients(model).items():
        assert (grad - right[name]).norm() <= 1e-5 * right[name].norm(), name


@pytest.mark.parametrize("name", [PACKED, "sdpa", "eager"])
def test_a_transformer_keeps_borders_with_every_attention(name: str) -> None:
    model = llama()
    model.set_attn_implementation(name)
    assert keeps_borders(model, "sdpa")
    assert model.config._attn_implementation == name


def leaking(module: Any, query: Any, key: Any, value: Any, mask: Any, **other: Any) -> Any:
    """Causal over the whole row, whatever the mask says."""
    del other["sliding_window"]
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2), None


def dripping(module: Any, query: Any, key: Any, value: Any, mask: Any, **other: Any) -> Any:
    """As packed, but a trace of the first position reaches all."""
    out, _ = packed_attention(module, query, key, value, None, **other)
    return out + 1e-6 * out[:, :1], None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", [leaking, dripping])
def test_attention_that_leaks_is_found_out(attention: Any, dtype: torch.dtype) -> None:
    AttentionInterface.register("leaking", attention)
    model = sliding().to(dtype)
    model.set_attn_implementation("leaking")
    assert not keeps_borders(model, "sdpa")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["mamba", "qwen3_next", "recurrent_gemma", "falcon_h1"])
def test_a_recurrent_model_gets_padded_rows(model_type: str, dtype: torch.dtype) -> None:
    model = of_type(model_type, dtype)
    native = model.config._attn_implementation
    assert not keeps_borders(model, native)
    assert choose_layout(model) == Layout(native, packed=False)
    assert model.config._attn_implementation == native


def test_a_window_that_only_the_mask_knows_is_not_lost() -> None:
    """Longer than the samples of the proof, and the attention is not told of it."""
    settings = tiny_config("qwen2_moe").to_dict()
    settings |= {"use_sliding_window": True, "sliding_window": 16}
    settings["layer_types"] = ["sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig.from_dict(settings))
    samples = tiny.samples(40, 25, vocabulary=128)
    expected = [own_logits(model, sample) for sample in samples]
    assert choose_layout(model) == Layout("sdpa", packed=True)
    packed = batch(pack(samples))
    found = model.lm_head(run_body(model, packed))[0]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_chunked_attention_is_not_mistaken_for_full_attention() -> None:
    assert choose_layout(of_type("llama4_text")).attention != PACKED


@pytest.mark.parametrize("wanted", ["packed", "sdpa", "eager"])
def test_the_attention_asked_for_is_used(wanted: str) -> None:
    model = llama()
    assert choose_layout(model, wanted) == Layout(wanted, packed=True)
    assert model.config._attn_implementation == wanted


def test_an_attention_that_cannot_be_had_is_an_error_naming_the_flag() -> None:
    with pytest.raises(ConfigError, match="--attn_impl packed: MambaForCausalLM"):
        choose_layout(of_type("mamba"), "packed")


def test_choosing_leaves_the_model_in_training() -> None:
    model = llama().train()
    choose_layout(model)
    assert model.training


def test_the_model_still_runs_by_itself_once_a_layout_is_chosen() -> None:
    model, tokens = llama(), torch.randint(3, 400, (2, 20))
    expected = model(input_ids=tokens, use_cache=False).logits
    choose_layout(model)
    found = model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_packed_attention_refuses_a_cache_and_a_mask() -> None:
    query, key = torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 5, 8)
    with pytest.raises(NotImplementedError, match="cache"):
        packed_attention(torch.nn.Identity(), query, key, key, None)
    with pytest.raises(NotImplementedError, match="mask"):
        packed_attention(torch.nn.Identity(), key, key, key, torch.zeros(1, 1, 5, 5))


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_soft_caps_and_sinks_follow_their_formula(
    window: int | None, cap: float | None, sinks: bool
) -> None:
    torch.manual_seed(0)
    query, key = 3 * torch.randn(1, 4, 15, 8), 3 * torch.randn(1, 2, 15, 8)
    value, sink_H = torch.randn(1, 2, 15, 8), torch.randn(4) if sinks else None
    starts = torch.tensor([0, 9, 15], dtype=torch.int32)
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None,
        scaling=0.3, sliding_window=window, softcap=cap, s_aux=sink_H,
        cu_seq_lens_q=starts, max_length_q=9,
    )  # fmt: skip
    for head in range(4):
        for t in range(15):
            first = max(0 if t < 9 else 9, t - (window or 15) + 1)
            scores = 0.3 * key[0, head // 2, first : t + 1] @ query[0, head, t]
            scores = scores if cap is None else cap * torch.tanh(scores / cap)
            power = scores.exp()
            share = power / (power.sum() + (sink_H[head].exp() if sinks else 0))
            expected = share @ value[0, head // 2, first : t + 1]
            torch.testing.assert_close(found[0, t, head], expected, rtol=1e-5, atol=1e-6)


def test_a_second_model_that_reads_no_branches_is_refused() -> None:
    learner, other = llama(), llama()
    layout = choose_layout(learner)
    choose_layout(other)
    check_branches(other, learner, layout, "--ref_model")
    other.set_attn_implementation("sdpa")  # knows nothing of parents
    with pytest.raises(ConfigError, match=r"--ref_model: LlamaForCausalLM cannot read a prompt"):
        check_branches(other, learner, layout, "--ref_model")
