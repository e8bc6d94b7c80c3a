"""Networks that see, beside a field, the same field with all modes of equal variance.

    f(x, c, lambda) = N([x, z(x), c, z(c)], lambda),   z(x) = sum over modes of x(k) / sqrt(S0(k))

Spectra of photographs fall so steeply (S0 from 1 to 1e-6 at 64 x 64) that what the finest modes
hold is lost on a network beside the coarse ones; in z all scales are as large as one another. A
field c that the network is conditioned on is seen in both ways, too.
"""

from typing import cast

import torch
from torch import Tensor, nn

from skild_physics import kspace
from skild_physics.diffusion.process import Process


class WhitenedInput(nn.Module):
    """Fields (B, C, M, M) and lambda M^2 (B,), in square pixels, to fields (B, C', M, M).

    Args:
        network: takes C + ``whitened`` channels.
        process: whose S0 makes modes equal; for fields of other sizes, that of the same spacing.
        whitened: how many of the C channels, the first ones, are shown in both ways.
    """

    def __init__(self, network: nn.Module, process: Process, whitened: int):
        super().__init__()
        self.network, self.process, self.whitened = network, process, whitened
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return cast(int, self.network.multiple)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        """Fields of the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            B, root = self._waves(x)
            z = B.T @ (B @ x[:, : self.whitened].float() @ B.T / root) @ B
        # what is constant over a field stays last
        shown = torch.cat([x[:, : self.whitened], z.to(x.dtype), x[:, self.whitened :]], dim=1)
        output: Tensor = self.network(shown, lam)
        return output

    @torch.inference_mode(False)
    def _waves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # kept here, because compilers do not see the cache of kspace
        N, device = key = x.shape[-1], x.device
        if key not in self._tables:
            process = self.process.resized(N)
            B = torch.tensor(kspace.basis_matrix(N, process.basis), dtype=torch.float32)
            self._tables[key] = B.to(device), process.S0.sqrt().float().to(device)
        return self._tables[key]
