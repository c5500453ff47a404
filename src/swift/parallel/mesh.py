"""Several processes as one: devices, sums over all of them, sharding, gradient exchange."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from swift.config.parallel import ParallelSection
from swift.parallel.world import World


def device_of(world: World) -> torch.device:
    """The device of this process: its own GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", world.local_rank)
    return torch.device("cpu")


@dataclass(frozen=True)
class Mesh:
    """The processes of a run, seen from one of them."""

    world: World
    device: torch.device
    devices: DeviceMesh | None  # None: a single process

    def sum(self, values: Sequence[float]) -> list[float]:
        """Numbers added over all processes, in float64."""
        if self.devices is None:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def share(self, value: Any) -> Any:
        """What the first process holds, on all of them."""
        if self.devices is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process holds, in their order, on all of them."""
        if self.devices is None:
            return [value]
        found: list[Any] = [None] * self.world.size
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.devices is not None:
            dist.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process of each machine does something that the others then find done."""
        if self.devices is not None and self.world.local_rank > 0:
            dist.barrier()
        yield
        if self.devices is not None and self.world.local_rank == 0:
            dist.barrier()


@contextlib.contextmanager
def open_mesh(world: World, section: ParallelSection) -> Iterator[Mesh]:
    """Join the processes of a run, and part again at the end, also after an error."""
    device = device_of(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1:
        yield Mesh(world, device, None)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=section.timeout_s),
    )
    try:
        yield Mesh(world, device, init_device_mesh(device.type, (world.size,)))
    finally:
        dist.destroy_process_group()


class Spread:
    """A module whose gradients, after the last micro-batch of a step, are those of all processes.

    Every process works on its own micro-batches. Gradients are averaged over the processes, so the
    loop scales each loss by their number. ``run`` is what to call.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[nn.Module],
        mesh: Mesh,
        section: ParallelSection,
        compute: torch.dtype,
    ) -> None:
        self.module = module
        self.run: nn.Module = module
        if mesh.devices is None:
            return
        if section.shard == "none":
            ids = [mesh.device.index] if mesh.device.type == "cuda" else None
            self.run = DistributedDataParallel(
                module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
            )
            return
        offload = (
            CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda")
            if section.offload
            else OffloadPolicy()
        )
        options: dict[str, Any] = {
            "mesh": mesh.devices,
            "reshard_after_forward": section.shard == "parameters",
            "mp_policy": MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32),
            "offload_policy": offload,
        }
        for layer in layers:
            fully_shard(layer, **options)
        fully_shard(module, **options)

    def exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Around one micro-batch: ``now`` for the last one of a step."""
        if isinstance(self.run, DistributedDataParallel) and not now:
            return self.run.no_sync()
        return contextlib.nullcontext()

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the parameters."""
        return isinstance(self.module, FSDPModule)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be sharded, gathered (every process must call this)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
