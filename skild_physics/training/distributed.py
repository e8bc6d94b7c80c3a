"""Processes that train together under torchrun; one process is a world of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from skild_physics.training.hardware import default_device


@dataclass(frozen=True)
class World:
    """Where this process stands among those that train together.

    Attributes:
        rank: number of this process; process 0 alone writes.
        size: number of processes.
        device: what this process computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def gathered(self, values: Tensor) -> Tensor:
        """Values of all processes in the order of their ranks, shape (size, *values.shape)."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined_world() -> Iterator[World]:
    """The world that torchrun describes (nccl on GPUs, gloo elsewhere), or that of one process."""
    size, device = int(os.environ.get("WORLD_SIZE", "1")), default_device()
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
