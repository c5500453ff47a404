"""A checkpoint folder -> a model in the asked number format, in one copy; or its mere shape."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from swift.errors import ConfigError
from swift.models.anatomy import body, influence

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_NOT_CAUSAL = "--model: {} is not a causal language model"


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of a configuration's word; ``auto`` asks the device."""
    if name != "auto":
        return DTYPES[name]
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``float32``."""
    return str(dtype).removeprefix("torch.")


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The architecture of a checkpoint; of several models in one, that of the one which writes text
    and reads media.

    Raises:
        ConfigError: it cannot be read, is unknown, or wants to run its own code.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(_why(folder, error)) from None
    return writing_config(config)


def writing_config(config: Any) -> Any:
    """Of a box of several models, which has no forward pass of its own, the configuration of the
    one that writes text.
    """
    known = AutoModelForMultimodalLM._model_mapping
    if type(config) not in known:  # type: ignore[operator]
        return config
    made = known[type(config)]  # type: ignore[index]
    if getattr(made, "forward", None) is not torch.nn.Module.forward:
        return config
    inner = [getattr(config, name, None) for name in config.sub_configs]
    return next((c for c in inner if type(c) in known), config)  # type: ignore[operator]


def auto_class(config: Any) -> Any:
    """Transformers' automatic class that makes the model of a configuration.

    Where several know the architecture (with its towers, and its language model alone), it is the
    one that makes what the checkpoint says it is, else the first: what reads media is made whole.
    """
    known = [
        auto
        for auto in (AutoModelForMultimodalLM, AutoModelForCausalLM, AutoModelForSeq2SeqLM)
        if type(config) in auto._model_mapping  # type: ignore[operator]
        and not (auto is AutoModelForSeq2SeqLM and config.is_encoder_decoder)
    ]
    for auto in known[1:]:
        made = auto._model_mapping[type(config)]  # type: ignore[index]
        if getattr(made, "__name__", "") in (config.architectures or ()):
            return auto
    if known:
        return known[0]
    brought = getattr(config, "auto_map", {})
    chosen = AutoModelForMultimodalLM.__name__ in brought
    return AutoModelForMultimodalLM if chosen else AutoModelForCausalLM


def gives_scores(config: Any) -> bool:
    """Whether a checkpoint says that its model gives scores, and does not write."""
    mappings: Any = (
        AutoModelForSequenceClassification._model_mapping,
        AutoModelForTokenClassification._model_mapping,
    )
    made = {mapping[type(config)].__name__ for mapping in mappings if type(config) in mapping}
    return bool(made & set(config.architectures or ()))


def _class_of(config: Any, scores: int | None, each_token: bool) -> Any:
    """The automatic class of a model that writes text, or of one that gives so many scores."""
    if scores is None:
        return auto_class(config)
    config.num_labels = scores
    return AutoModelForTokenClassification if each_token else AutoModelForSequenceClassification


def load_model(
    folder: Path,
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
    trust_remote_code: bool = False,
    scores: int | None = None,
    each_token: bool = False,
) -> PreTrainedModel:
    """Load a causal language model, with the towers that it has; weights arrive in ``dtype``
    without a second copy.

    Args:
        folder: checkpoint in the Hugging Face layout.
        dtype: of every weight.
        device: where weights are put; default: the CPU.
        trust_remote_code: allow code from the checkpoint.
        scores: with so many scores in place of its vocabulary; a head that the checkpoint lacks is
            random.
        each_token: those scores are of every token.

    Raises:
        ConfigError: not a causal language model, or the checkpoint lacks weights.
    """
    config = load_config(folder, trust_remote_code=trust_remote_code)
    if scores is None and gives_scores(config):
        raise ConfigError(
            f"--model: {folder} gives scores and does not write; rows are scored by swift infer "
            "--val_dataset"
        )
    options: dict[str, Any] = {"device_map": device} if device and device.type != "cpu" else {}
    try:
        loaded: Any = _class_of(config, scores, each_token).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **options,
        )
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(_why(folder, error)) from None
    model, report = loaded
    if report["mismatched_keys"]:
        name, found, needed = min(report["mismatched_keys"])
        raise ConfigError(
            f"--model: {folder}: {name} has the shape {tuple(found)}, but config.json asks for "
            f"{tuple(needed)}; weights and configuration are of different models"
        )
    inner = f"{model.base_model_prefix}."
    absent = sorted(n for n in report["missing_keys"] if scores is None or n.startswith(inner))
    if absent:
        raise ConfigError(
            f"--model: {folder} lacks {len(absent)} weights that this architecture needs "
            f"({', '.join(absent[:3])} ...); they would be random"
        )
    _prepare(model)
    try:
        causal = _is_causal(model, writes=scores is None)
    except Exception as error:  # each architecture says in its own way that it needs more
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"--model: {folder}: {type(model).__name__} does not read a text alone: {error}"
        ) from None
    if not causal:
        raise ConfigError(_NOT_CAUSAL.format(folder))
    return model


def _is_causal(model: PreTrainedModel, *, writes: bool) -> bool:
    """Whether a position depends on none behind it: encoders also come with a language head. Some
    models read what is said to be a prompt in both directions; they must read an answer in one.
    """

    def run(**given: Any) -> Any:
        return model(**given).logits[0] if writes else body(model)(**given).last_hidden_state[0]

    tokens = torch.arange(8, device=model.device)[None]
    ways: list[dict[str, torch.Tensor]] = [{}]
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        ways.append({"token_type_ids": torch.ones_like(tokens)})
    for way in ways:
        _, slope = influence(
            model,
            lambda way=way: run(input_ids=tokens, use_cache=False, **way),  # type: ignore[misc]
            slice(0, 4),
        )
        size = slope.float().abs()
        if size[4:].max() <= 1e-6 * size.max():
            return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("allocate memory", "could not create a primitive")  # the second is oneDNN's
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def load_shape(
    folder: Path,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    scores: int | None = None,
    each_token: bool = False,
) -> PreTrainedModel:
    """The model without its weights: names and sizes, no memory (torch's ``meta`` device)."""
    config = copy.deepcopy(load_config(folder, trust_remote_code=trust_remote_code))
    try:
        with torch.device("meta"):
            model: PreTrainedModel = _class_of(config, scores, each_token).from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
    except ValueError as error:
        raise ConfigError(_why(folder, error)) from None
    _prepare(model)
    return model


def _prepare(model: PreTrainedModel) -> None:
    """Batches carry no padding, so no token is a padding token: where pad is the stop token, as in
    many checkpoints, torch would else never learn its embedding.
    """
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, torch.nn.Embedding):
        embeddings.padding_idx = None


def context_length(config: Any) -> int | None:
    """Positions that the model was made for."""
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None)
    return int(found) if found else None


def _why(folder: Path, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"--model: {folder} brings its own Python code; "
            "if you trust it: --trust_remote_code true"
        )
    if "Unrecognized configuration class" in text:
        return _NOT_CAUSAL.format(folder)
    if "no file named" in text:
        return f"--model: {folder} holds no weights (model.safetensors)"
    first = text.strip().splitlines()[0] if text.strip() else repr(error)
    return f"--model: {folder} cannot be loaded: {first}"
