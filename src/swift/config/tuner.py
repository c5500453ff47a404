"""What learns: every weight, or an adapter beside frozen ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from swift.config.section import Section, Strings
from swift.registry import variant


class TunerSection(Section):
    """What learns: every weight, or an adapter beside frozen ones."""

    kind: str

    freeze_vit: bool = True
    """Keep the towers as they are that turn images, video and audio into vectors. This and the two
    below are for models that read media; with all-linear, frozen parts get no adapter."""

    freeze_aligner: bool = True
    """Keep what connects those towers with the language model as it is."""

    freeze_llm: bool = False
    """Keep the language model as it is."""


@variant(TunerSection, "lora", code="swift.tune.lora:attach")
class LoraSection(TunerSection):
    """Low-rank adapters (arXiv:2106.09685): W + alpha/rank * B A, only A and B learn."""

    kind: Literal["lora"] = "lora"

    rank: int = Field(8, ge=1)
    """Rank r of the update."""

    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank (alpha / sqrt(rank) with rslora)."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before A while training."""

    targets: Strings = ["all-linear"]
    """Modules that get an adapter: all-linear (every linear layer of the parts that are not
    frozen, but the output head), or the ends of module names, such as q_proj v_proj."""

    targets_regex: str | None = None
    """A regular expression over full module names, instead of targets."""

    save_modules: Strings = []
    """Modules that learn as a whole beside the adapter and are saved with it, such as
    embed_tokens lm_head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv:2312.03732): larger ranks then learn at the same rate."""

    dora: bool = False
    """Learn the size of each weight row apart from its direction (arXiv:2402.09353)."""


@variant(TunerSection, "full", code="swift.tune.full:attach")
class FullSection(TunerSection):
    """Every weight learns, but those frozen below."""

    kind: Literal["full"] = "full"

    freeze: Strings = []
    """Beginnings of names of parameters that stay as they are, such as model.embed_tokens."""

    freeze_regex: str | None = None
    """A regular expression over names of parameters that stay as they are."""

    learn: Strings = []
    """Beginnings of names of parameters that learn although frozen by the two above."""
