"""``swift merge-lora``, ``swift export --merge_lora true``: adapter and base as one model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from swift.config.runs import MergeConfig
from swift.errors import CheckpointError, ConfigError
from swift.hub.locate import find_adapter
from swift.infer.load import fetch, settle
from swift.models.load import DTYPES, load_config, load_model
from swift.models.save import copy_beside, save_model, saved_keys
from swift.observe.log import Log, quiet_libraries
from swift.parallel.mesh import device_of
from swift.parallel.world import World
from swift.tune.lora import load_adapter, scores_in
from swift.tune.merge import merge


def run(config: MergeConfig, world: World) -> Path | None:
    """Merge an adapter, prove it, write the model; returns its folder."""
    quiet_libraries()
    log = Log(world.is_main)
    section, before = settle(config.model)
    adapter = Path(section.adapters[0])
    target = Path(config.output).expanduser() if config.output else Path(f"{adapter}-merged")
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"--output_dir: {target} is not empty; give another folder")
    base = fetch(section, torch.float32, log)
    dtype = _dtype(section.dtype, base, section.trust_remote_code)
    if config.dry_run:
        log(f"would merge {adapter} into {section.path} ({dtype}) and write {target}")
        return None
    scores = scores_in(find_adapter(str(adapter)))
    model = load_model(
        base, dtype, device=device_of(world), trust_remote_code=section.trust_remote_code,
        scores=scores.count, each_token=scores.each_token,
    )  # fmt: skip
    expected = saved_keys(base) if scores.count is None else set(model.state_dict())
    merged = merge(load_adapter(model, str(adapter)))
    if before.problem:
        merged.model.config.problem_type = before.problem
    log(
        f"merged {merged.weights} layers: weights within {merged.rounding:.2f} roundings of the "
        f"exact sum, logits within {merged.logits:.1e}"
    )
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        save_model(merged.model, part, dtype=dtype, shard_size=config.shard_size)
        copy_beside(base, part)
        if (adapter / "tokenizer.json").is_file():
            copy_beside(adapter, part)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"{target} cannot be written: {error}") from None
    if (keys := saved_keys(part)) != expected:
        odd = sorted(keys ^ expected)
        raise CheckpointError(
            f"{part}: weights are not those of the base model: {', '.join(odd[:5])}"
        )
    if target.exists():
        target.rmdir()
    part.rename(target)
    log(f"written: {target} ({len(keys)} weights, the same names as the base model's)")
    return target


def _dtype(said: str, base: Path, trust: bool) -> torch.dtype:
    """The format of the merged weights: as asked for, else that of the base model."""
    if said != "auto":
        return DTYPES[said]
    found = getattr(load_config(base, trust_remote_code=trust), "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32
