"""A GGUF file as a folder that transformers loads: dequantized once, then kept."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from swift.errors import ConfigError


def convert(file: Path, cache: Path, dtype: str, say: Callable[[str], None]) -> Path:
    """Dequantize a GGUF file into a checkpoint folder, or find the one made before.

    Args:
        file: the GGUF file.
        cache: the folder that holds converted models.
        dtype: number format of the weights written ("float32" keeps every bit).
        say: told that this takes a while.

    Raises:
        ConfigError: the file is not one that transformers can read.
    """
    target = cache / f"{file.stem}-{dtype}-{_identity(file)}"
    if (target / "config.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            say(f"reading {file.name} (once; kept in {target})")
            part = target.with_name(f"{target.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            _write(file, part, dtype)
            part.rename(target)
    return target


def _identity(file: Path) -> str:
    """A short name for the content: size and time, beginning and end.

    The time, because two fine-tunes of one model may differ in the middle alone.
    """
    stat = file.stat()
    size = stat.st_size
    digest = hashlib.sha256(f"{size} {stat.st_mtime_ns}".encode())
    with file.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        stream.seek(max(size - (1 << 20), 0))
        digest.update(stream.read())
    return digest.hexdigest()[:12]


def _write(file: Path, folder: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
        )
    except (ValueError, LookupError, OSError, NotImplementedError, struct.error) as error:
        raise ConfigError(f"--model: {file} cannot be read as GGUF: {error}") from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
