"""How much arithmetic a network needs, counted by torch on shapes, and what active modes save."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skild_physics.diffusion.adaptive import active_size
from skild_physics.diffusion.process import Process


def flops_per_field(network: nn.Module, channels: int, side: int, *more: Any) -> int:
    """Floating-point operations (two per multiplication and addition) for one field.

    Args:
        network: maps fields and lambda to fields.
        channels: channels of the input.
        side: sites per side of the input.
        more: further arguments of the network, such as the side of the output.
    """
    device = next(network.parameters()).device
    x = torch.zeros(1, channels, side, side, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, torch.ones(1, device=device), *more)
    return int(counter.get_total_flops())


def arithmetic_saved(
    process: Process, steps: Tensor, threshold: float = 0.01, multiple: int = 1
) -> float:
    """Sites of full evaluations over sites of those of active modes, along ``steps``, >= 1."""
    sizes = [active_size(process, n, threshold, multiple) for n in steps[:-1].tolist()]
    return len(sizes) * process.N**2 / sum(M**2 for M in sizes)
