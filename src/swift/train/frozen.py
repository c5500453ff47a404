"""A second model beside the one that learns: it is asked, and does not learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from swift.errors import ConfigError
from swift.hub.locate import locate_model
from swift.models.anatomy import size
from swift.models.attention import Layout, choose_layout
from swift.models.load import dtype_name, load_model, load_shape
from swift.train.session import Session
from swift.tune.lora import load_adapter


def frozen_base(session: Session, name: str) -> Path:
    """The folder of a model that is named beside the one that learns."""
    with session.mesh.main_first():
        return locate_model(
            name,
            hub=session.config.model.hub,
            dtype=dtype_name(session.compute),
            code=session.config.model.trust_remote_code,
            say=session.log,
        )


def frozen_bytes(session: Session, base: Path) -> int:
    """Bytes of the weights of another model, as :func:`frozen_model` loads it; adapters are merged
    into them.
    """
    code = session.config.model.trust_remote_code
    return size(load_shape(base, session.compute, trust_remote_code=code).parameters())


def frozen_model(
    session: Session, base: Path, adapters: Sequence[str], layout: Layout, flag: str
) -> PreTrainedModel:
    """Another model with adapters merged into it, laid out as the one that learns.

    Args:
        session: of the run.
        base: folder of the model.
        adapters: of it.
        layout: of the model that learns.
        flag: by which the user named it.

    Raises:
        ConfigError: it reads samples in another way.
    """
    model = load_model(
        base,
        session.compute,
        device=session.mesh.device,
        trust_remote_code=session.config.model.trust_remote_code,
    )
    for folder in adapters:
        model = load_adapter(model, folder).merge_and_unload()
    model.requires_grad_(False).eval()
    if choose_layout(model, layout.attention) != layout:
        raise ConfigError(
            f"{flag}: {type(model).__name__} cannot read samples as the model does "
            f"({layout.attention}); use one of the same architecture"
        )
    return model
