"""What every architecture must keep, as functions: each raises, or says in a word what it found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny
from contracts.tiny_config import tiny_config
from swift.config.tuner import LoraSection
from swift.data.batch import batch
from swift.data.pack import pack
from swift.data.sample import Sample
from swift.models.anatomy import body, decoder_layers, output_head, vocabulary
from swift.models.attention import choose_layout
from swift.models.heads import find_head
from swift.models.load import load_model
from swift.models.save import save_model, saved_keys
from swift.train.objective import Objective
from swift.tune.lora import attach, load_adapter
from swift.tune.merge import merge


def build(model_type: str) -> PreTrainedModel:
    """A tiny model in which every weight matters: none is exactly zero or one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert torch.isfinite(logits_of(model.eval())).all()
    return model


def samples() -> list[Sample]:
    """Three samples, the shortest longer than the tiny configurations' windows."""
    return tiny.samples(25, 20, 31, vocabulary=100)


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    """The model's own logits of a fixed text."""
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 33)[None], use_cache=False).logits


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients, which are cleared."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def alone(model: PreTrainedModel, sample: Sample) -> torch.Tensor:
    """The loss of one sample by transformers' own logits and torch's own cross-entropy."""
    tokens = torch.from_numpy(sample.tokens).long()
    logits = model(input_ids=tokens[None, :-1], use_cache=False).logits[0].float()
    each = F.cross_entropy(logits, tokens[1:], reduction="none")
    return (each * torch.from_numpy(sample.weights[1:])).sum()


def check_anatomy(model: PreTrainedModel, folder: Path) -> str:
    """Embeddings, layers and head are found, and layers and embeddings are in the body."""
    layers = decoder_layers(model)
    inside = {id(p) for p in body(model).parameters()}
    assert {id(p) for p in layers.parameters()} <= inside
    assert id(model.get_input_embeddings().weight) in inside
    assert output_head(model).weight.shape[0] <= vocabulary(model)
    return f"{len(layers)} x {type(layers[0]).__name__}"


def check_head(model: PreTrainedModel, folder: Path) -> str:
    """Our head behind the body gives the model's own logits."""
    head, tokens = find_head(model), torch.arange(3, 33)[None]
    with torch.no_grad():
        hidden = body(model)(input_ids=tokens, use_cache=False).last_hidden_state
        torch.testing.assert_close(head(hidden), logits_of(model), rtol=1e-5, atol=1e-5)
    return "proven"


def check_layout(model: PreTrainedModel, folder: Path) -> str:
    """Loss and gradients of a batch are the sums of those of its samples alone."""
    model.train()
    expected = sum(alone(model, sample) for sample in samples())
    expected.backward()
    right = gradients(model)
    layout = choose_layout(model)
    objective = Objective(model, find_head(model))
    total = objective(batch(pack(samples()), packed=layout.packed))["total"]
    total.backward()
    found = gradients(model)
    model.eval()
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0)
    assert {name for name, grad in found.items() if grad.any()} <= right.keys() <= found.keys()
    whole = torch.stack([grad.norm() for grad in right.values()]).norm()
    for name, grad in right.items():
        error = (found[name] - grad).norm() / (grad.norm() + 1e-2 * whole)
        assert error < 1e-4, f"{name}: the gradient is off by {error:.1e}"
    return f"{layout.attention}, {'packed' if layout.packed else 'padded'}"


def check_save(model: PreTrainedModel, folder: Path) -> str:
    """A saved model is the same one for plain transformers and for us, under the same names."""
    before = logits_of(model)
    save_model(model, folder / "first", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder / "first", dtype="auto")
    assert plain.dtype == torch.float32
    torch.testing.assert_close(logits_of(plain), before, rtol=1e-5, atol=1e-5)
    ours = load_model(folder / "first", torch.float32)
    torch.testing.assert_close(logits_of(ours), before, rtol=1e-5, atol=1e-5)
    save_model(ours, folder / "second", dtype=torch.float32)
    names = saved_keys(folder / "first")
    assert names == saved_keys(folder / "second")
    return f"{len(names)} weights"


def check_lora(model: PreTrainedModel, folder: Path) -> str:
    """An adapter starts as nothing, learns alone, comes back from a file, merges without loss."""
    before, again = logits_of(model), copy.deepcopy(model)
    peft = attach(LoraSection(rank=2), model, [], "base").peft
    assert peft is not None
    torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5)
    alone(model, samples()[0]).backward()
    learned = gradients(model)
    assert learned and all("lora_" in name for name in learned)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    side_by_side = logits_of(model)
    assert not torch.allclose(side_by_side, before, rtol=1e-3, atol=1e-3)
    peft.save_pretrained(str(folder))
    load_adapter(again, str(folder))
    torch.testing.assert_close(logits_of(again), side_by_side, rtol=1e-5, atol=1e-5)
    merged = merge(peft)
    torch.testing.assert_close(logits_of(merged.model), side_by_side, rtol=1e-4, atol=1e-4)
    return f"{merged.weights} layers"


POINTS: dict[str, Callable[[PreTrainedModel, Path], str]] = {
    "anatomy": check_anatomy,
    "head": check_head,
    "layout": check_layout,
    "save": check_save,
    "lora": check_lora,
}
