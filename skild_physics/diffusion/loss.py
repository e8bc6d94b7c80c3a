"""The training loss, its weight per mode, and how training chooses its steps n.

The loss of a field at step n is the mean over modes of W_n(k) |f(k) - target(k)|^2, by default with
W = 1. The shell weight (SKILD, arXiv 2605.26032, for the w and v targets) is

    W_n(k) = (abar_(n-1) - abar_n) / mean over modes of the same,

which concentrates the loss on the modes whose signal step n removes; for w over S0(k), as
published, so that both targets have the same loss.

Steps are drawn from (0, T], uniformly or by importance: with the interval divided into bins, bin b
of recent losses L is drawn with probability p_b proportional to sqrt(E[L^2]), which minimises the
variance of the loss's gradient as far as it goes with the loss (Nichol and Dhariwal,
arXiv 2102.09672), and the loss is divided by p_b times the number of bins.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from skild_physics.diffusion.process import Process
from skild_physics.files import InputError


def shell_weight(process: Process, n: Tensor | float) -> Tensor:
    """W at steps n > 0, of mean 1 over modes, float64, shape n.shape + (N, N).

    For n < 1 the preceding step is 0. Modes that nothing attenuates have weight 0.
    """
    n = torch.as_tensor(n, dtype=torch.float64)
    u_m, u_n = process.exponent((n - 1).clamp(min=0)), process.exponent(n)
    # in logarithms, because late in a schedule every mode's abar may underflow
    removed = -u_m + torch.log(-torch.expm1(u_m - u_n))
    weight: Tensor = torch.softmax(removed.flatten(-2), dim=-1).view_as(removed) * process.N**2
    return weight


class DrawnSteps(NamedTuple):
    """Steps n of a batch in (0, T], float64, and the factor that each field's loss carries."""

    n: Tensor
    factor: Tensor


class LossSecondMomentSteps:
    """n by the second moment of recent losses, uniform until every bin has a full history.

    Args:
        T: number of steps of the process.
        bins: number of equal intervals of (0, T].
        history: losses remembered per bin.
        uniform: share of draws that stay uniform, so that no bin is forgotten.

    Raises:
        InputError: bins or history < 1, or uniform outside 0..1.
    """

    def __init__(self, T: int, bins: int = 100, history: int = 10, uniform: float = 0.01):
        if bins < 1 or history < 1:
            raise InputError(f"bins and history must be at least 1, got {bins} and {history}")
        if not 0 <= uniform <= 1:
            raise InputError(f"uniform must lie in 0..1, got {uniform}")
        self.T, self.bins, self.uniform = T, bins, uniform
        self._losses = torch.zeros(bins, history, dtype=torch.float64)
        self._seen = torch.zeros(bins, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """Probability of each bin, float64, shape (bins,)."""
        root = self._losses.square().mean(dim=1).sqrt()
        if int(self._seen.min()) < self._losses.shape[1] or not float(root.sum()) > 0:
            return torch.full((self.bins,), 1 / self.bins, dtype=torch.float64)
        return (1 - self.uniform) * root / root.sum() + self.uniform / self.bins

    def draw(self, count: int, generator: torch.Generator) -> DrawnSteps:
        """Steps for ``count`` fields, and 1 / (bins p) for each."""
        p = self.probabilities()
        chosen = torch.multinomial(p, count, replacement=True, generator=generator)
        within = 1 - torch.rand(count, generator=generator, dtype=torch.float64)
        n = (chosen + within) * self.T / self.bins
        return DrawnSteps(n, (1 / (self.bins * p[chosen])).float())

    def update(self, n: Tensor, losses: Tensor) -> None:
        """Remember the losses, without their factor, of fields at steps n; both shape (count,)."""
        bins = (torch.ceil(n * self.bins / self.T) - 1).long().clamp(0, self.bins - 1)
        for b, loss in zip(bins.tolist(), losses.double().tolist(), strict=True):
            self._losses[b, self._seen[b] % self._losses.shape[1]] = loss
            self._seen[b] += 1

    def state_dict(self) -> dict[str, Any]:
        """What the next draws depend on."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._losses, self._seen = state["losses"].clone(), state["seen"].clone()
