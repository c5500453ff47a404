"""What every architecture that reads media must keep, as functions: each raises, or says in a word
what it found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from transformers import PreTrainedModel

from contracts.batches import batches
from contracts.media import Inputs, media
from contracts.tiny_multimodal import tiny_multimodal
from swift.config.tuner import FullSection, LoraSection
from swift.errors import ConfigError
from swift.models.anatomy import body, decoder_layers, output_head, vocabulary
from swift.models.load import auto_class, load_model, writing_config
from swift.models.parts import PARTS, Part, Parts, parts
from swift.models.save import save_model, saved_keys
from swift.tune.frozen import frozen_parts
from swift.tune.full import attach as attach_full
from swift.tune.lora import attach as attach_lora
from swift.tune.lora import load_adapter
from swift.tune.merge import merge

TEXT = {"input_ids": torch.arange(3, 19)[None]}
CHOICES = (
    {},
    {"freeze_vit": False, "freeze_aligner": False},
    {"freeze_vit": False, "freeze_llm": True},
    {"freeze_aligner": False, "freeze_llm": True},
)


def build(model_type: str) -> PreTrainedModel:
    """A tiny model in which every weight matters: none is exactly zero or one."""
    torch.manual_seed(0)
    config = tiny_multimodal(model_type)
    if (inner := writing_config(config)) is not config:
        config = tiny_multimodal(inner.model_type)
    model: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def logits(model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
    """The model's own logits."""
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def learned(model: torch.nn.Module, inputs: Inputs) -> set[str]:
    """Names of the parameters that a pass and its loss reach with a gradient."""
    model.zero_grad(set_to_none=True)
    out = model(**inputs, use_cache=False).logits
    out.float().square().mean().backward()
    found = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    model.zero_grad(set_to_none=True)
    return found


def all_inputs(model: PreTrainedModel) -> Iterator[Inputs]:
    """A text, and every kind of media that it is known how to give."""
    yield TEXT
    with suppress(NotImplementedError):  # check_media says so
        yield from media(model).values()


def _owned(model: PreTrainedModel, found: Parts) -> dict[Part, set[str]]:
    """The parameters of every part."""
    owned: dict[Part, set[str]] = {part: set() for part in PARTS}
    for name, _ in model.named_parameters(remove_duplicate=False):
        owned[found.of(name)].add(name)
    return owned


def check_parts(model: PreTrainedModel, folder: Path) -> str:
    """Layers, embeddings and head are the language model's; every name of a part owns something; a
    text reaches nothing but the language model.
    """
    found = parts(model)
    owned = _owned(model, found)
    assert found.several and owned["language"]
    for part in PARTS:
        for name in getattr(found, part):
            assert any(n == name or n.startswith(f"{name}.") for n in owned[part]), name
    names = {id(p): name for name, p in model.named_parameters()}
    inside = [*decoder_layers(model).parameters(), model.get_input_embeddings().weight]
    for parameter in [*inside, *output_head(model).parameters()]:
        assert names[id(parameter)] in owned["language"]
    assert {id(p) for p in inside} <= {id(p) for p in body(model).parameters()}
    assert output_head(model).weight.shape[0] <= vocabulary(model)
    stray = learned(model, TEXT) - owned["language"]
    assert not stray, f"a text reaches {min(stray)}"
    return ", ".join(f"{part} {len(owned[part])}" for part in PARTS if owned[part])


def check_media(model: PreTrainedModel, folder: Path) -> str:
    """Media reach their tower, the aligner and the language model."""
    owned = _owned(model, parts(model))
    found = media(model)
    assert found
    for kind, inputs in found.items():
        reached = learned(model, inputs)
        tower: Part = "audio" if kind == "audio" else "vision"
        for part in (tower, "aligner", "language"):
            assert not owned[part] or reached & owned[part], f"{kind} does not reach {part}"
        other: Part = "vision" if kind == "audio" else "audio"
        assert not reached & owned[other], f"{kind} reaches {other}"
    return ", ".join(found)


def check_batch(model: PreTrainedModel, folder: Path) -> str:
    """Samples in one batch come out, and learn, as each alone."""
    return batches(model)


def check_freeze(model: PreTrainedModel, folder: Path) -> str:
    """With all weights, exactly those of the parts that are not frozen learn."""
    found = parts(model)
    for choice in CHOICES:
        section = FullSection(**choice)
        kept = frozen_parts(section, found)
        expected = {n for n, _ in model.named_parameters() if found.of(n) not in kept}
        if not expected:
            continue
        attach_full(section, model, [], "")
        assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
        for inputs in all_inputs(model) if expected else ():
            if any(found.of(n) == "language" for n in expected):
                assert learned(model, inputs) <= expected
    return "exact"


def check_save(model: PreTrainedModel, folder: Path) -> str:
    """A saved model is the same one for plain transformers and for us, under the same names."""
    save_model(model, folder / "first", dtype=torch.float32)
    plain = auto_class(model.config).from_pretrained(folder / "first", dtype="auto")
    ours = load_model(folder / "first", torch.float32)
    for inputs in all_inputs(model):
        before = logits(model, inputs)
        torch.testing.assert_close(logits(plain.eval(), inputs), before, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(ours.eval(), inputs), before, rtol=1e-5, atol=1e-5)
    save_model(ours, folder / "second", dtype=torch.float32)
    names = saved_keys(folder / "first")
    assert names == saved_keys(folder / "second")
    return f"{len(names)} weights"


def check_lora(model: PreTrainedModel, folder: Path) -> str:
    """For all choices of parts: adapters are in those only, start as nothing, come back from a file
    and merge without loss.
    """
    count = []
    inputs = list(all_inputs(model))
    before = [logits(model, given) for given in inputs]
    for number, choice in enumerate(CHOICES):
        ours, again = copy.deepcopy(model), copy.deepcopy(model)
        section, found = LoraSection(rank=2, **choice), parts(model)
        try:
            peft = attach_lora(section, ours, [], "base").peft
        except ConfigError as error:
            assert "nothing is left to learn" in str(error)
            count.append("0")
            continue
        assert peft is not None
        owners = {found.of(n) for n, p in peft.named_parameters() if p.requires_grad}
        assert owners and not owners & frozen_parts(section, found)
        for given, right in zip(inputs, before, strict=True):
            torch.testing.assert_close(logits(ours, given), right, rtol=1e-5, atol=1e-5)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        side = [logits(ours, given) for given in inputs]
        where = folder / str(number)
        peft.save_pretrained(str(where))
        load_adapter(again, str(where))
        merged = merge(peft)
        for given, right in zip(inputs, side, strict=True):
            torch.testing.assert_close(logits(again, given), right, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(logits(merged.model, given), right, rtol=1e-3, atol=1e-4)
        count.append(str(merged.weights))
    return f"{' / '.join(count)} layers"


POINTS: dict[str, Callable[[PreTrainedModel, Path], str]] = {
    "parts": check_parts,
    "media": check_media,
    "batch": check_batch,
    "freeze": check_freeze,
    "save": check_save,
    "lora": check_lora,
}
