"""Which weights of a model see, hear, connect or write: its parts, found by asking it.

A tower turns media into vectors, an aligner turns those into what the language model reads. A model
says which of its modules are built from which of its sub-configurations; the rest follows from how
modules contain each other and from the widths of their weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from swift.errors import ConfigError
from swift.models.anatomy import decoder_layers, output_head, reads_media, stacks, text_config

Part = Literal["vision", "audio", "aligner", "language"]
PARTS: tuple[Part, ...] = ("vision", "audio", "aligner", "language")

_MEDIA = re.compile("vision|image|video|audio|speech|encoder")  # in names of sub-configurations
_SOUND = re.compile("audio|speech|input_features|input_values")


@dataclass(frozen=True)
class Parts:
    """The parts of a model, as names of its modules and of single parameters. Each owns what is
    below it but what is below a longer name.
    """

    vision: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    aligner: tuple[str, ...] = ()
    language: tuple[str, ...] = ("",)

    @property
    def several(self) -> bool:
        """Whether there is more than a language model."""
        return bool(self.vision or self.audio or self.aligner)

    @cached_property
    def _owners(self) -> dict[str, Part]:
        return {name: part for part in PARTS for name in getattr(self, part)}

    def of(self, name: str) -> Part:
        """The part of a module or parameter, by the name that the model has for it or PEFT around
        the model.
        """
        name = name.removeprefix("base_model.model.")
        while name and name not in self._owners:
            name = name.rpartition(".")[0]
        return self._owners.get(name, "language")


def parts(model: PreTrainedModel) -> Parts:
    """The parts of a model; every parameter belongs to exactly one.

    What is neither a tower nor of the language model counts as aligner, also what makes media.
    """
    names = {id(m): name for name, m in model.named_modules()}
    layers = names[id(decoder_layers(model))]
    ends = [names[id(m)] for m in _ends(model) if id(m) in names]
    towers = _towers(model, [layers, *ends])
    root, apart = _root(model, layers, towers)
    language = [root]
    for end in ends:
        if not _inside(end, language):
            language.append(_outermost(end, [*towers, *language]))
    rest = list(_rest(model, "", {*towers, *language})) if towers or apart else []
    if rest and not apart:
        read = _called(model, beside=root)
        language += [name for name in rest if name in read]
        rest = [name for name in rest if name not in read]
    if not towers and not rest:
        return Parts()
    inner = [found for tower in towers for found in _mergers(model, tower, alone=not rest)]
    return Parts(
        vision=tuple(name for name, part in towers.items() if part == "vision"),
        audio=tuple(name for name, part in towers.items() if part == "audio"),
        aligner=(*rest, *inner),
        language=tuple(language),
    )


def count_parts(model: PreTrainedModel, found: Parts) -> list[tuple[Part, int, int]]:
    """Parameters by part: (part, all, those that learn); parts that a model lacks are left out."""
    counts = {part: [0, 0] for part in PARTS if getattr(found, part)}
    for name, parameter in model.named_parameters():
        entry = counts[found.of(name)]
        entry[0] += parameter.numel()
        entry[1] += parameter.numel() if parameter.requires_grad else 0
    return [(part, total, learning) for part, (total, learning) in counts.items()]


def _ends(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Where text enters a model and where it leaves it."""
    yield model.get_input_embeddings()
    with suppress(ConfigError):
        yield output_head(model)


def _inside(name: str, outer: Iterable[str]) -> bool:
    return any(not o or name == o or name.startswith(o + ".") for o in outer)


def _holds(name: str, inner: Iterable[str]) -> bool:
    return any(_inside(i, [name]) for i in inner)


def _ancestors(name: str) -> Iterator[str]:
    """A name and those of the modules around it, from the inside."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name


def _outermost(name: str, strangers: Iterable[str]) -> str:
    """The largest module around a module that holds no stranger."""
    return [outer for outer in _ancestors(name) if not _holds(outer, strangers)][-1]


def _sub_configs(config: PretrainedConfig) -> Iterator[tuple[str, PretrainedConfig]]:
    for name in config.sub_configs:
        if isinstance(inner := getattr(config, name, None), PretrainedConfig):
            yield name, inner
            yield from _sub_configs(inner)


def _towers(model: PreTrainedModel, text: list[str]) -> dict[str, Part]:
    """The outermost modules that read media, and which: those built from a sub-configuration for
    media, those that say that they read no tokens, those that the model calls its encoders.
    """
    text_kind = type(text_config(model))
    made_from = {type(c): key for key, c in _sub_configs(model.config) if _MEDIA.search(key)}
    made_from.pop(text_kind, None)
    asked = {id(_encoder(model, kind)): kind for kind in ("image", "audio")}
    found: dict[str, Part] = {}
    for name, module in model.named_modules():
        if _holds(name, text) or _inside(name, [*found, *text]):
            continue
        signs = [asked[id(module)]] if id(module) in asked else []
        if isinstance(module, PreTrainedModel):
            key = made_from.get(type(module.config))
            if key or module.main_input_name != "input_ids":
                signs += [key or "", module.main_input_name, str(module.input_modalities)]
        if signs and any(True for _ in module.parameters()):
            found[name] = _sense(signs, model)
    return found


def _sense(signs: list[str], model: PreTrainedModel) -> Part:
    """Which media a tower reads, by the first sign that says so; the whole model's are the last."""
    for sign in [*signs, str(model.input_modalities)]:
        if re.search("vision|image|video|pixel", sign):
            return "vision"
        if _SOUND.search(sign):
            return "audio"
    return "vision"


def _encoder(model: PreTrainedModel, kind: str) -> Any:
    with suppress(AttributeError, NotImplementedError, ValueError):
        return model.get_encoder(modality=kind)
    return None


def _root(model: PreTrainedModel, layers: str, towers: Iterable[str]) -> tuple[str, bool]:
    """The language model without what may stand apart, and whether it is a model of its own: the
    largest around the layers that was built from the text's sub-configuration.
    """
    modules, config = dict(model.named_modules()), text_config(model)
    if config is not model.config:
        for name in reversed([n for n in _ancestors(layers) if not _holds(n, towers)]):
            module = modules[name]
            if name and isinstance(module, PreTrainedModel) and type(module.config) is type(config):
                return name, True
    return _outermost(layers, towers), False


def _rest(module: nn.Module, name: str, taken: set[str]) -> Iterator[str]:
    """The outermost modules, and single parameters, that hold nothing of what is taken."""
    prefix = name + "." if name else ""
    for key, _ in module.named_parameters(recurse=False):
        yield prefix + key
    for key, child in module.named_children():
        if prefix + key in taken or not any(True for _ in child.parameters()):
            continue
        if _holds(prefix + key, taken):
            yield from _rest(child, prefix + key, taken)
        else:
            yield prefix + key


@torch.no_grad()
def _called(model: PreTrainedModel, beside: str) -> set[str]:
    """Names of the modules that a pass over a text calls; where a model needs media for that, of
    those beside a certain one.
    """
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: called.add(name)

    hooks = [m.register_forward_pre_hook(note(name)) for name, m in model.named_modules()]
    training = model.training
    try:
        model.eval()
        model(input_ids=torch.arange(8, device=model.device)[None], use_cache=False)
    except Exception:  # architectures say in many ways that they need more than text
        outer = beside.rpartition(".")[0]
        called |= {f"{outer}.{n}" for n, _ in model.get_submodule(outer).named_children()}
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return called


def _mergers(model: PreTrainedModel, tower: str, *, alone: bool) -> list[str]:
    """What at the end of a tower writes in the width of the text: mergers, projections.

    Args:
        model: the model.
        tower: the name of its tower.
        alone: nothing outside of the towers connects them with the language model. Otherwise a
            tower of the text's width ends in nothing of that kind.
    """
    module = model.get_submodule(tower)
    found = [s for m in [module, *filter(reads_media, module.modules())] for s in stacks(m)]
    embeddings = model.get_input_embeddings()
    if not found or not isinstance(embeddings, nn.Module) or not hasattr(embeddings, "weight"):
        return []
    width = embeddings.weight.shape[-1]  # type: ignore[union-attr,index]
    stack = max(found, key=_alike)
    if not alone and _width(stack) == width:
        return []
    place = next(name for name, m in module.named_modules() if m is stack)
    mergers: list[str] = []
    for inner in list(_ancestors(place))[:-1]:
        outer, _, key = inner.rpartition(".")
        children = dict(module.get_submodule(outer).named_children())
        behind = list(children)[list(children).index(key) + 1 :]
        ends = [name for name in behind if _writes(children[name]) == width]
        kinds = {type(children[name]) for name in ends}  # a list of the same may stand anywhere
        ends += [
            name
            for name, child in children.items()
            if name not in ends and isinstance(child, nn.ModuleList) and _all_of(child, kinds)
        ]
        prefix = f"{tower}.{outer}." if outer else f"{tower}."
        mergers += [prefix + name for name in ends]
    return mergers


def _all_of(stack: nn.ModuleList, kinds: set[type[nn.Module]]) -> bool:
    return {type(module) for module in stack} <= kinds


def _alike(stack: nn.ModuleList) -> int:
    """How many modules of one kind a list has."""
    return max(Counter(map(type, stack)).values(), default=0)


def _matrices(module: nn.Module) -> list[torch.Tensor]:
    return [p for p in module.parameters() if p.ndim >= 2]


def _width(stack: nn.ModuleList) -> int:
    """The width that most matrices of the last layer read."""
    sizes = Counter(p.shape[-1] for p in _matrices(stack[-1]))
    return sizes.most_common(1)[0][0] if sizes else 0


def _writes(module: nn.Module) -> int:
    """The width of what a module returns, judged by its last matrix; 0: it has none."""
    matrices = _matrices(module)
    return matrices[-1].shape[0] if matrices else 0
