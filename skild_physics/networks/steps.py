"""Networks that count steps, as published ones do, under the interface that knows lambda only.

A network N(x, n) that was trained on a schedule lambda(n / T) at one size L is given the step at
which this schedule reaches lambda,

    f(x, lambda L^2) = factor * N(x, T lambda^(-1)(lambda)),

so that it can be run along any other discretisation. Published SKILD models (arXiv 2605.26032) give
their output a meaning through the transform in the paper's normalisation, in which every mode is
the factor 2/L (2 sqrt(2)/L and 4/L where one or both waves are constant) times the orthonormal one.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from skild_physics import kspace
from skild_physics.diffusion.schedule import Schedule
from skild_physics.files import InputError


class StepNetwork(nn.Module):
    """Fields (B, C, M, M) and lambda M^2 (B,), in square pixels, to fields (B, C, M, M).

    Args:
        network: maps fields and steps n (B,) to fields.
        schedule: the schedule that its steps belong to.
        T: number of its steps.
        size: side L of the fields that it was made for.
        basis: basis of the output's modes.
        normalization: of these modes: "orthonormal" or "paper".

    The paper's normalisation depends on the size, so that only fields of M = L are taken then.
    """

    factor: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        T: int,
        size: int,
        basis: kspace.Basis,
        normalization: str = "orthonormal",
    ):
        super().__init__()
        self.network = network
        self.schedule, self.T, self.size, self.basis = schedule, T, size, basis
        factor = None
        if normalization == "paper":
            factor = torch.tensor(kspace.normalization_factor(size, basis)).float()
        self.register_buffer("factor", factor, persistent=False)

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return cast(int, self.network.multiple) if self.factor is None else self.size

    def forward(self, x: Tensor, lam: Tensor, *more: Any) -> Tensor:
        """Fields of the same shape, or of what else the network is asked for.

        Raises:
            InputError: a side that the network does not take.
        """
        if self.factor is not None and x.shape[-1] != self.size:
            raise InputError(f"the network takes {self.size} x {self.size}, got {x.shape[-1]}")
        output: Tensor = self.network(x, self._step(lam), *more)
        if self.factor is None:
            return output
        with torch.autocast(x.device.type, enabled=False):
            modes = self.factor * kspace.forward(output.float(), self.basis)
            return kspace.inverse(modes, self.basis)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step(self, lam: Tensor) -> Tensor:
        # float32 may round lambda beyond the end of the schedule
        end = float(self.schedule.lam(1.0))
        t = self.schedule.time((lam.double() / self.size**2).clamp(max=end))
        return (self.T * t).float()
