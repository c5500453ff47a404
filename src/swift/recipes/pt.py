"""``swift pt``: go on with pre-training on plain text; the same run over another kind of rows."""

from __future__ import annotations

from swift.config.runs import PtConfig
from swift.parallel.world import World
from swift.recipes import sft
from swift.train.outcome import Outcome


def run(config: PtConfig, world: World) -> Outcome | None:
    """Train on documents: every token learned, borders kept."""
    return sft.run(config, world, kind="text")
