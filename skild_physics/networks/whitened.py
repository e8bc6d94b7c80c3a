"""Networks that see, beside a field, the same field with all modes of equal variance.

    f(x, lambda) = N([x, z], lambda),   z = sum over modes of x(k) / sqrt(S0(k))

Spectra of photographs fall so steeply (S0 from 1 to 1e-6 at 64 x 64) that what the finest modes
hold is lost on a network beside the coarse ones; in z all scales are as large as one another.
"""

from typing import cast

import torch
from torch import Tensor, nn

from skild_physics import kspace
from skild_physics.diffusion.process import Process


class WhitenedInput(nn.Module):
    """Fields (B, C, M, M) and lambda M^2 (B,), in square pixels, to fields (B, C, M, M).

    Args:
        network: takes 2 C channels.
        process: whose S0 makes modes equal; for fields of other sizes, that of the same spacing.
    """

    def __init__(self, network: nn.Module, process: Process):
        super().__init__()
        self.network, self.process = network, process
        self._roots: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return cast(int, self.network.multiple)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        """Fields of the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            modes = kspace.forward(x.float(), self.process.basis) / self._root(x)
            z = kspace.inverse(modes, self.process.basis)
        output: Tensor = self.network(torch.cat([x, z.to(x.dtype)], dim=1), lam)
        return output

    @torch.inference_mode(False)
    def _root(self, x: Tensor) -> Tensor:
        key = x.shape[-1], x.device
        if key not in self._roots:
            self._roots[key] = self.process.resized(key[0]).S0.sqrt().float().to(x.device)
        return self._roots[key]
