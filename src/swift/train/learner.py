"""The model of a run, ready to learn: loaded, marked, laid out, spread over processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from swift import registry
from swift.config.learned import each_token_of, scores_of
from swift.data.encode import renderer_of
from swift.data.prepare import Prepared
from swift.data.stream import Collate
from swift.errors import ResourceError
from swift.models.anatomy import decoder_layers
from swift.models.attention import Layout, attention_of, check_one_way, choose_layout, shares
from swift.models.kernels import fast_linear, row_multiple
from swift.models.load import load_model
from swift.models.parts import parts
from swift.models.recompute import recompute
from swift.models.seeing import see
from swift.parallel.mesh import Spread
from swift.train.session import Plan, Session
from swift.tune.lora import load_adapter
from swift.tune.tuned import Tuned

Build = Callable[[Session, Tuned, Layout], nn.Module]
"""Makes the objective of a run: model and loss as one module (see train.objective)."""


@dataclass(frozen=True)
class Learner:
    """The model, ready to learn on this process."""

    tuned: Tuned
    spread: Spread
    optimizer: torch.optim.Optimizer
    layout: Layout
    unit: str  # what batches count
    collate: Collate

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that learn."""
        return [p for p in self.spread.module.parameters() if p.requires_grad]


def build_learner(
    session: Session,
    plan: Plan,
    data: Prepared,
    checkpoint: Path | None,
    build: Build,
) -> Learner:
    """Load the model (or the weights of a checkpoint), mark what learns, spread it."""
    config, mesh = session.config, session.mesh
    torch.manual_seed(config.train.seed)
    tuned = _load(session, checkpoint)
    model = tuned.model
    native = attention_of(model)
    layout = choose_layout(model, config.model.attention)
    if kinds := data.kinds:
        layout = see(model, layout, renderer_of(data.spec).marks, native, kinds)
    else:
        check_one_way(model)
    if config.data.packing and not layout.packed:
        raise ResourceError(
            f"--packing: {type(model).__name__} carries a state along the sequence, so packed "
            "samples would leak into each other; use --packing false"
        )
    towers = config.train.vit_gradient_checkpointing
    recompute(
        model,
        language=plan.budget.again,
        towers=plan.budget.again if towers is None else towers,
        # the same way as the first time: a backward pass leaves the first context
        settings={
            "use_reentrant": False,
            "context_fn": lambda: (nullcontext(), fast_linear(model)),
        },
    )
    objective: Any = build(session, tuned, layout)
    unit, collate = objective.unit, _collate(session, objective.collate, model, layout, data)
    spread = Spread(objective, list(decoder_layers(model)), mesh, config.parallel, session.compute)
    torch.manual_seed(config.train.seed + mesh.world.rank)  # dropout differs between processes
    found = parts(model)
    optimizer = registry.build(
        config.optimizer,
        spread.module.named_parameters(),
        plan.learning_rate,
        lambda name: found.of(name.removeprefix("model.")),
    )
    return Learner(tuned, spread, optimizer, layout, unit, collate)


def _collate(
    session: Session, wanted: Collate, model: PreTrainedModel, layout: Layout, data: Prepared
) -> Collate:
    """How batches are laid out: as the objective wants them and the model can read them."""
    why = ""
    if wanted.share and data.kinds:
        why = "rows hold media"
    elif wanted.share and not shares(model, layout):
        why = f"{layout.attention} attention has no branches"
    if why:
        session.log(f"prompts are not shared: {why}")
    share = wanted.share and layout.packed and not why
    multiple = row_multiple(session.mesh.device)
    return replace(wanted, packed=layout.packed, multiple=multiple, spec=data.spec, share=share)


def _load(session: Session, checkpoint: Path | None) -> Tuned:
    """The model with what learns in it; weights that learn are in float32."""
    config = session.config
    section, adapter = config.tuner, config.tuner.kind != "full"
    sharded = config.parallel.shard != "none" and session.mesh.devices is not None
    model = load_model(
        checkpoint if checkpoint and not adapter else session.base,
        session.compute if adapter else torch.float32,
        device=torch.device("cpu") if sharded else session.mesh.device,
        trust_remote_code=config.model.trust_remote_code,
        scores=scores_of(config),
        each_token=each_token_of(config),
    )
    adapters = list(config.model.adapters)
    if checkpoint is not None:
        adapters = [str(checkpoint)] if adapter else []
    elif config.model.merge:
        for folder in adapters:
            model = load_adapter(model, folder).merge_and_unload()
        adapters = []
    label = config.model.path if config.model.hub != "auto" else str(session.base)
    tuned: Tuned = registry.build(section, model, adapters, label)
    return tuned
