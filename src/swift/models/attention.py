"""Which attention a model reads packs with, proven on the model itself, and reading with it.

Axes: B rows (1), H heads, T positions, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from swift.chat.media.types import NAMES
from swift.data.batch import Batch
from swift.errors import ConfigError
from swift.models.anatomy import body, influence, output_head, text_config, vocabulary
from swift.models.arranged import arranged
from swift.models.load import is_out_of_memory
from swift.models.packed import packed_attention

PACKED = "packed"
_PROVING = "packed-proving"  # the same, used by keeps_borders


def _proving_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """:func:`packed_attention` where the architecture tells it all that a mask would tell others.

    The samples of the proof are shorter than any window, so that a window which only a mask knows
    of would else be lost without a trace.
    """
    window = None
    if attention_mask is not None and attention_mask.dtype == torch.int64:
        window, attention_mask = int(attention_mask), None
    if window != sliding_window:
        raise NotImplementedError("packed attention is not told of the window")
    return packed_attention(
        module, query_BHTD, key_BHTD, value_BHTD, attention_mask,
        sliding_window=sliding_window, **other,
    )  # fmt: skip


def _proving_mask(
    local_size: int | None = None, use_vmap: bool = False, **other: Any
) -> torch.Tensor | None:
    """In place of a mask: the size of the window that it would have, if any."""
    if use_vmap:
        raise NotImplementedError("packed attention does not know masks of an architecture's own")
    return None if local_size is None else torch.full((1, 1, 1, 1), local_size, device="cpu")


AttentionInterface.register(PACKED, packed_attention)
AttentionInterface.register(_PROVING, _proving_attention)
AttentionMaskInterface.register(_PROVING, _proving_mask)


def run_body(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Hidden states of a batch, (1, T, D) or (B, L, D).

    Where padded rows hold media, the architecture knows best how it counts positions.
    """
    borders: dict[str, Any] = {}
    if batch.packed:
        borders = {
            "cu_seq_lens_q": batch.starts_S,
            "cu_seq_lens_k": batch.starts_S,
            "max_length_q": batch.longest,
            "max_length_k": batch.longest,
        }
    if batch.parents:
        borders["parents"] = batch.parents
    places = batch.positions if batch.packed or not batch.media else None
    own = arranged(model, batch) if batch.media else {}
    known = signature(model.forward).parameters
    media = {n: v for n, v in batch.media.items() if n in known or n not in NAMES}
    return read(
        model, {"input_ids": batch.tokens, "position_ids": places, **media, **borders, **own}
    )


def read(model: PreTrainedModel, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Hidden states, as the output head reads them.

    Where only the whole model takes media, it runs, and its head writes a single position.
    """
    reader = body(model)
    beyond = inputs.keys() - signature(reader.forward).parameters.keys()
    if not beyond & signature(model.forward).parameters.keys():
        hidden = reader(**inputs, use_cache=False).last_hidden_state
        assert isinstance(hidden, torch.Tensor)
        return hidden
    seen: list[torch.Tensor] = []

    def first(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(given[0])
        return (given[0][:, :1],)

    hook = output_head(model).register_forward_pre_hook(first)
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    return seen[0]


@dataclass(frozen=True)
class Layout:
    """How batches are laid out for a model."""

    attention: str  # the implementation chosen
    packed: bool  # samples end to end; else padded rows


def choose_layout(model: PreTrainedModel, wanted: str = "auto") -> Layout:
    """Find the fastest attention under which packed samples do not see each other.

    The proof is a forward pass: a sample must come out of a pack as it does alone, and unchanged
    when its neighbour changes. An architecture that fails with every implementation (one that
    carries a state along the sequence, say) gets padded rows.

    Args:
        model: on its device; its attention implementation is set.
        wanted: ``auto``, ``packed``, ``sdpa``, ``eager`` or ``flash``.

    Raises:
        ConfigError: the implementation asked for cannot be had.
    """
    flash = ["flash_attention_2"] if is_flash_attn_2_available() else []
    candidates = {
        "auto": [PACKED, "sdpa", "eager"],
        "flash": [*flash, PACKED],
    }.get(wanted, [wanted])
    native = attention_of(model)
    for name in candidates:
        if _usable(model, name) and keeps_borders(model, native):
            return Layout(name, packed=True)
    for name in [native] if wanted == "auto" else candidates:
        if name != PACKED and _usable(model, name):
            return Layout(name, packed=False)
    raise ConfigError(f"--attn_impl {wanted}: {type(model).__name__} cannot run with it")


def shares(model: PreTrainedModel, layout: Layout) -> bool:
    """Whether a text may be read as branches of one trunk: each comes out as it does in a pack."""
    if layout.attention != PACKED:
        return False
    training = model.training
    model.eval()
    random = torch.Generator().manual_seed(0)
    count = min(vocabulary(model), 1000)
    trunk, *branches = (
        torch.randint(0, count, (length,), generator=random) for length in (7, 5, 3)
    )
    device = next(model.parameters()).device
    plain = _lay([torch.cat([trunk, branch]) for branch in branches], device)
    tree = _lay([trunk, *branches], device)
    positions = torch.cat([torch.arange(n) + at for n, at in ((7, 0), (5, 7), (3, 7))])[None]
    tree = replace(tree, positions=positions.to(device), parents=(-1, 0, 0))
    try:
        with torch.no_grad():
            apart, together = (run_body(model, batch)[0].float() for batch in (plain, tree))
    except (TypeError, NotImplementedError):
        return False
    finally:
        model.train(training)
    apart = torch.cat([apart[7:12], apart[19:]])
    exact = next(model.parameters()).dtype == torch.float32
    bound = (1e-4 if exact else 5e-2) * apart.norm()
    return bool((together[7:] - apart).norm() < bound)


def check_branches(
    model: PreTrainedModel, learner: PreTrainedModel, layout: Layout, flag: str
) -> None:
    """A second model reads branches of a text where the one that learns is given some.

    Args:
        model: laid out as the one that learns.
        learner: the one that learns.
        layout: of both.
        flag: by which the user named the second one.

    Raises:
        ConfigError: it does not.
    """
    if shares(learner, layout) and not shares(model, layout):
        raise ConfigError(
            f"{flag}: {type(model).__name__} cannot read a prompt once for several answers, as "
            f"{type(learner).__name__} does; use one of the same architecture, or --attn_impl sdpa"
        )


def attention_of(model: PreTrainedModel) -> str:
    """The attention of the part that writes text."""
    return str(text_config(model)._attn_implementation)


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Choose the attention of the part that writes text; towers that read media keep theirs.

    Raises:
        ValueError, ImportError: this model cannot have it.
    """
    text = text_config(model)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            for key in module.config.sub_configs:
                if getattr(module.config, key, None) is text:
                    module.set_attn_implementation({key: name})
                    return
    model.set_attn_implementation(name)


def _usable(model: PreTrainedModel, name: str) -> bool:
    try:
        set_attention(model, name)
    except (ValueError, ImportError):
        return False
    return attention_of(model) == name


def keeps_borders(model: PreTrainedModel, native: str) -> bool:
    """Whether two packed samples come out as they do alone, under the current attention.

    Three proofs: the second sample comes out as it does alone (within rounding, which is coarse in
    bfloat16); it does not change with the tokens of the first; and its derivative by the embeddings
    of the first is zero to the last bit, in any number format.

    Args:
        model: set to the attention in question.
        native: the attention that computes a sample alone.
    """
    training, current = model.training, attention_of(model)
    model.eval()
    if current == PACKED:
        set_attention(model, _PROVING)
    random = torch.Generator().manual_seed(0)
    count = min(vocabulary(model), 1000)
    first, other, second = (
        torch.randint(0, count, (length,), generator=random) for length in (7, 7, 9)
    )
    try:
        together, slope = _second(model, [first, second])
        changed, _ = _second(model, [other, second])
        set_attention(model, native)
        alone, _ = _second(model, [second])
    except Exception as error:  # architectures that cannot do it say so each in its own way
        if is_out_of_memory(error):
            raise
        return False
    finally:
        set_attention(model, current)
        model.train(training)
    exact = next(model.parameters()).dtype == torch.float32
    bound = (1e-4 if exact else 5e-2) * alone.norm()
    near = (together - alone).norm() < bound and (together - changed).norm() < bound
    return bool(near) and not slope[: len(first)].any()


def check_one_way(model: PreTrainedModel) -> None:
    """A text is read in one direction: no position depends on those behind it.

    Raises:
        ConfigError: it does.
    """
    batch = _lay([torch.arange(8)], next(model.parameters()).device, packed=False)
    _, slope = influence(model, lambda: run_body(model, batch)[0], slice(0, 4))
    size = slope.float().abs()
    if size[4:].max() > 1e-6 * size.max():
        raise ConfigError(
            f"--model: {type(model).__name__} reads a text without images in both directions, so "
            "an answer would be seen before it is learned; train it on rows with images"
        )


def _second(
    model: PreTrainedModel, samples: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the last sample, and their derivative by all embeddings."""
    batch = _lay(samples, next(model.parameters()).device, packed=len(samples) > 1)
    last = slice(-len(samples[-1]), None)
    hidden, slope = influence(model, lambda: run_body(model, batch)[0], last)
    return hidden.float(), slope


def _lay(samples: list[torch.Tensor], device: torch.device, packed: bool = True) -> Batch:
    tokens = torch.cat(samples)
    bounds = [0]
    for sample in samples:
        bounds.append(bounds[-1] + len(sample))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        tokens=tokens[None],
        positions=torch.cat([torch.arange(len(sample)) for sample in samples])[None],
        learned_N=nothing,
        targets_N=nothing,
        weights_N=torch.zeros(0),
        starts_S=torch.tensor(bounds, dtype=torch.int32),
        bounds=tuple(bounds),
        weight=0.0,
        count=len(tokens),
        packed=packed,
        places=(),
    ).to(device)
