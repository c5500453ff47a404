"""New weights on their way to an engine in another process: files, in memory if possible."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from swift.errors import ConfigError

_SHARD = 2 << 30  # bytes
_HEAD = "lm_head.weight"
_MEMORY = Path("/dev/shm")


@contextmanager
def laid_out(weights: Iterable[tuple[str, Any]], model: Path) -> Iterator[Path]:
    """A folder with weights as safetensors files of about 2 GB, which goes away again.

    Args:
        weights: (name, tensor), the names as in the checkpoint; on any device.
        model: folder of the checkpoint that the engine runs.

    Raises:
        ConfigError: they are not those of the model, with its shapes.
    """
    place = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="swift-weights-", dir=place) as name:
        folder, shard, size = Path(name), dict[str, Any](), 0
        for number, (key, tensor) in enumerate(_checked(weights, model)):
            # a copy: safetensors refuses tensors that share memory
            shard[key] = tensor.detach().to("cpu", copy=True).contiguous()
            size += tensor.nbytes
            if size >= _SHARD:
                save_file(shard, folder / f"model-{number:06}.safetensors")
                shard, size = {}, 0
        if shard:
            save_file(shard, folder / "model-last.safetensors")
        yield folder


def _checked(weights: Iterable[tuple[str, Any]], model: Path) -> Iterator[tuple[str, Any]]:
    """The weights, which must be all that the checkpoint has: an engine that finds a wrong one, or
    one part of a fused layer without the others, has lost its own by then.
    """
    shapes, tied = _shapes(model), _is_tied(model)
    missing, embeddings = set(shapes), None
    for name, tensor in weights:
        is_head = tied and name == _HEAD
        if name not in shapes and not is_head:
            raise ConfigError(f"new weights: the model has no {name}")
        if name in shapes and shapes[name] != tuple(tensor.shape):
            raise ConfigError(
                f"new weights: {name} has the shape {shapes[name]}, not {tuple(tensor.shape)}"
            )
        missing.discard(name)
        if is_head:
            continue
        if name.endswith("embed_tokens.weight"):
            embeddings = tensor
        yield name, tensor
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise ConfigError(f"new weights: all are needed at once, {some} did not come")
    if tied and embeddings is not None:
        yield _HEAD, embeddings  # vLLM 0.32 keeps a packed copy on CPUs, renewed by its name alone


def _shapes(model: Path) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return found


def _is_tied(model: Path) -> bool:
    config = json.loads((model / "config.json").read_text("utf-8"))
    told = [part.get("tie_word_embeddings") for part in (config, config.get("text_config") or {})]
    return any(told)
