"""How much arithmetic a network needs, counted by torch on shapes alone."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


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
