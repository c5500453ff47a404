"""How one model and one step are spread over several processes."""

from __future__ import annotations

from typing import Literal

from swift.config.section import Section


class ParallelSection(Section):
    """How one model and one step are spread over several processes (NPROC_PER_NODE=2 swift ...)."""

    shard: Literal["none", "gradients", "parameters"] = "none"
    """What is split over the processes (FSDP2): none (every process keeps the whole model),
    gradients (with the optimizer's state; like ZeRO-2), or the parameters too (like ZeRO-3)."""

    offload: bool = False
    """Keep the split parameters in the memory of the host between their uses."""

    timeout_s: int = 1800
    """Seconds that a process waits for the others before it gives up."""
