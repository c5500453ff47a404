"""Low-rank adapters, made and kept by PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraModel
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from swift.config.tuner import LoraSection
from swift.errors import CheckpointError, ConfigError
from swift.hub.locate import find_adapter
from swift.models.anatomy import output_head, scores_tokens
from swift.models.parts import parts
from swift.tune.frozen import frozen_parts, nothing_left
from swift.tune.layer import LoraLinear
from swift.tune.tuned import Tuned


def attach(
    section: LoraSection, model: PreTrainedModel, adapters: Sequence[str], base: str
) -> Tuned:
    """Put an adapter beside frozen weights: a new one that changes nothing yet, or one to go on
    with.

    Args:
        section: its settings; of no effect on an adapter that exists.
        model: the base model.
        adapters: at most one folder of an adapter.
        base: how the adapter names its base model.

    Raises:
        ConfigError: the targets are not in the model, or there are several adapters.
    """
    if len(adapters) > 1:
        raise ConfigError("--adapters: one adapter is trained at a time; merge the others first")
    if adapters:
        peft = load_adapter(model, adapters[0], trainable=True)
    else:
        peft = _new(section, model)
        _learn_in_float32(peft)
    for settings in peft.peft_config.values():
        settings.base_model_name_or_path = base
    return Tuned(model, peft)


def _new(section: LoraSection, model: PreTrainedModel) -> PeftModel:
    targets: Any = section.targets_regex or section.targets
    if targets == ["all-linear"]:
        targets = "all-linear"
    settings = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
        lora_dropout=section.dropout,
        target_modules=targets,
        modules_to_save=section.save_modules or None,
        use_rslora=section.rslora,
        use_dora=section.dora,
        task_type=_task_of(model),
    )
    _use_our_layer(settings, model)
    if targets == "all-linear":
        unfit = _unfit(model, settings)
        if (names := _of_parts(section, model, unfit)) is not None:
            settings.target_modules = names
        else:
            settings.exclude_modules = unfit or None
    try:
        peft = get_peft_model(model, settings)
    except ValueError as error:
        ends = {
            name.rpartition(".")[2] for name, m in model.named_modules() if hasattr(m, "weight")
        }
        raise ConfigError(
            f"--target_modules: {error}; this model has {', '.join(sorted(ends))}"
        ) from None
    assert isinstance(peft, PeftModel)
    return peft


def _task_of(model: PreTrainedModel) -> TaskType:
    """What PEFT calls what the model gives; a new head of scores learns with the adapter."""
    if model.can_generate():
        return TaskType.CAUSAL_LM
    return TaskType.TOKEN_CLS if scores_tokens(model) else TaskType.SEQ_CLS


def _of_parts(section: LoraSection, model: PreTrainedModel, unfit: list[str]) -> list[str] | None:
    """Names of the linear modules that get an adapter in a model of several parts: those of the
    parts that are not frozen, without its head, and without those that torch's own attention reads
    the weights of past the module. None: it has but one part, and all may get one.

    Raises:
        ConfigError: none is left.
    """
    found = parts(model)
    if not found.several:
        return None
    kept, head = frozen_parts(section, found), output_head(model)
    modules = dict(model.named_modules())

    def fits(name: str, module: torch.nn.Module) -> bool:
        outer, _, end = name.rpartition(".")
        past = isinstance(modules[outer], torch.nn.MultiheadAttention)
        linear = isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        return linear and not past and end not in unfit and found.of(name) not in kept

    names = [name for name, module in modules.items() if fits(name, module)]
    if not names:
        raise ConfigError(nothing_left(kept))
    return names


def _unfit(model: PreTrainedModel, settings: LoraConfig) -> list[str]:
    """Ends of the names of linear modules that no adapter can stand beside: those that PEFT refuses
    for this architecture, and those that a forward pass never calls, because a kernel reads their
    weight past the module, or that return something else than a product (routers of experts).
    """
    linear = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    ends = {name.rpartition(".")[2] for name in linear}
    owners = parts(model)
    read = {name: m for name, m in linear.items() if owners.of(name) == "language"}
    others = {name: m for name, m in linear.items() if name not in read}
    found = ends - _multiplying(model, read) - _fit(others)
    for end in ends - found:
        try:
            LoraModel._check_target_module_compatiblity(
                None,  # type: ignore[arg-type]  # asks nothing of itself
                settings,
                model,
                end,
            )
        except ValueError:
            found.add(end)
    if settings.task_type == TaskType.TOKEN_CLS:  # that head is saved whole; PEFT tells of others
        head = output_head(model)
        found |= {name.rpartition(".")[2] for name, module in linear.items() if module is head}
    return sorted(found)


@torch.no_grad()
def _multiplying(model: PreTrainedModel, linear: dict[str, torch.nn.Linear]) -> set[str]:
    """Ends of the names of modules that act as linear ones in a pass over a text; of a model
    without weights: that would, as far as they tell by themselves.
    """
    acted: set[str] = set()

    def watch(name: str) -> Callable[..., None]:
        def note(module: torch.nn.Linear, args: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor) and out.shape[-1] == module.out_features:
                acted.add(name.rpartition(".")[2])

        return note

    if model.device.type == "meta":
        return _fit(linear)
    hooks = [module.register_forward_hook(watch(name)) for name, module in linear.items()]
    training = model.training
    try:
        model.train()  # the pass that fused kernels take over is that of training
        model(input_ids=torch.arange(8, device=model.device)[None], use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return acted


@torch.no_grad()
def _fit(linear: dict[str, torch.nn.Linear]) -> set[str]:
    """Ends of the names of modules that act as linear ones by themselves."""
    acted: set[str] = set()
    for name, module in linear.items():
        with suppress(NotImplementedError, RuntimeError):
            out = module(module.weight.new_zeros(2, module.in_features))
            if isinstance(out, torch.Tensor) and out.shape[-1] == module.out_features:
                acted.add(name.rpartition(".")[2])
    return acted


def _use_our_layer(settings: Any, model: PreTrainedModel) -> None:
    """Plain linear layers get :class:`LoraLinear`; quantized ones keep PEFT's own."""
    if getattr(model, "quantization_method", None) is None:
        settings._register_custom_module({torch.nn.Linear: LoraLinear})


def _learn_in_float32(peft: PeftModel) -> None:
    """Keep modules that learn as a whole in float32, as adapters are: small steps would be lost in
    the rounding of a shorter format. To their neighbours they speak the model's own.
    """
    for wrapper in peft.modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        for module in wrapper.modules_to_save.values():
            dtype = next(module.parameters()).dtype
            if dtype != torch.float32:
                module.float()
                module.register_forward_pre_hook(_enter)
                module.register_forward_hook(partial(_leave, dtype))


def _enter(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype  # asked anew: sharding computes in another
    floats = [isinstance(x, torch.Tensor) and x.is_floating_point() for x in args]
    return tuple(x.to(dtype) if f else x for x, f in zip(args, floats, strict=True))


def _leave(dtype: torch.dtype, module: torch.nn.Module, args: Any, out: torch.Tensor) -> Any:
    return out.to(dtype)


def adapter_bytes(folder: Path) -> int:
    """Bytes of an adapter in memory, in float32 as PEFT holds it; 0 of one that cannot be read,
    which is said when it is loaded.
    """
    with suppress(OSError, ValueError, RuntimeError, SafetensorError):
        return sum(4 * weight.numel() for weight in load_peft_weights(str(folder), "cpu").values())
    return 0


@dataclass(frozen=True)
class Scores:
    """What the model of an adapter gives."""

    count: int | None = None  # scores; None: it writes
    each_token: bool = False


def scores_in(folder: Path) -> Scores:
    """What the model of an adapter gives, as the head that was saved with it tells.

    Raises:
        CheckpointError: there should be a head, and there is none.
    """
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    kind = settings.get("task_type")
    if kind not in (TaskType.SEQ_CLS, TaskType.TOKEN_CLS):
        return Scores()
    ends = tuple(f".{name}.weight" for name in settings.get("modules_to_save") or ("score",))
    heads = {k: w for k, w in load_peft_weights(str(folder), "cpu").items() if k.endswith(ends)}
    if not heads:
        raise CheckpointError(f"--adapters: {folder} holds no head that gives its scores")
    return Scores(min(w.shape[0] for w in heads.values()), kind == TaskType.TOKEN_CLS)


def load_adapter(
    model: PreTrainedModel | PeftModel,
    folder: str,
    *,
    trainable: bool = False,
    name: str = "default",
) -> PeftModel:
    """Put the adapter of a folder onto its base model.

    Args:
        model: the base model; or what this returned, for one more adapter beside the others.
        folder: of the adapter.
        trainable: it will learn.
        name: what PEFT knows it by.

    Raises:
        ConfigError: the folder holds no adapter.
        CheckpointError: the adapter is broken or belongs to another model.
    """
    folder = str(find_adapter(folder))
    try:
        if isinstance(model, PeftModel):
            peft = model
            peft.load_adapter(folder, name, is_trainable=trainable)
        else:
            settings = PeftConfig.from_pretrained(folder)
            _use_our_layer(settings, model)
            peft = PeftModel.from_pretrained(
                model, folder, name, is_trainable=trainable, config=settings
            )
        if trainable:
            _learn_in_float32(peft)
        # once more: unrounded, and to hear what PEFT only warns of
        report: Any = set_peft_model_state_dict(peft, load_peft_weights(folder, "cpu"), name)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"--adapters: {folder} does not fit this model: {first}") from None
    kinds = ("lora_", "modules_to_save.")
    own = [key for key in report.missing_keys if name in key.split(".")]  # not of its neighbours
    absent = [key for key in own if any(kind in key for kind in kinds)]
    if wrong := absent or report.unexpected_keys:
        raise CheckpointError(
            f"--adapters: {folder} does not fit this model: {len(wrong)} weights "
            f"{'are missing from it' if absent else 'have no place here'}, such as {wrong[0]}"
        )
    return peft
