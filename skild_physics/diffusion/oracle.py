"""Data whose exact denoiser E[x_0 | x_n] has a closed form: what a perfect network would answer.

A mixture of Gaussians that are diagonal in k, sum_j p_j N(mu_j, D_j), stays one under the process,

    p(x_n) = sum_j p_j N(alpha mu_j, alpha^2 D_j + sigma^2),
    E[x_0 | x_n] = sum_j w_j(x_n) [mu_j + alpha D_j / (alpha^2 D_j + sigma^2) (x_n - alpha mu_j)],
    w_j proportional to p_j N(x_n; alpha mu_j, alpha^2 D_j + sigma^2).

The weights see all modes, so the estimate of each depends on all others. One component is Gaussian
data. In the two-point prior every mode is by itself +-a, blurred by a Gaussian of variance D: the
variance is a^2 + D, the fourth cumulant -2 a^4, and with g = alpha^2 D + sigma^2

    E[x_0 | x_n] = alpha D / g x_n + a sigma^2 / g tanh(alpha a x_n / g).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of diagonal Gaussians in k-space.

    Attributes:
        weights: p_j, shape (component,), of sum 1.
        means: mu_j, shape (component, N, N).
        variances: D_j, positive, shape (component, N, N) or (N, N).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Modes x_0, float64, shape (count, 1, N, N)."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        spread = self.variances.expand_as(self.means)[chosen].sqrt()
        noise = torch.randn(spread.shape, generator=generator, dtype=torch.float64)
        return (self.means[chosen] + spread * noise)[:, None]

    def variance(self) -> Tensor:
        """Variance of every mode, shape (N, N)."""
        p = self.weights[:, None, None]
        mean = (p * self.means).sum(dim=0)
        return (p * (self.variances + (self.means - mean) ** 2)).sum(dim=0)

    def denoiser(self, process: Process) -> Denoiser:
        """The exact E[x_0 | x_n]."""

        def denoise(x: Tensor, n: float) -> Tensor:
            alpha, sigma = (c.to(x) for c in process.marginal(n))
            D = self.variances.expand_as(self.means).to(x)
            mu = self.means.to(x)
            # a mode that nothing attenuates is known: any positive width gives E[x_0|x_n] = x_n
            width = alpha**2 * D + sigma**2
            away = x - alpha * mu
            log_w = self.weights.log().to(x) - 0.5 * (
                (away**2 / width).sum(dim=(-2, -1)) + width.log().sum(dim=(-2, -1))
            )
            w = torch.softmax(log_w, dim=-1)[..., None, None]
            each = mu + alpha * D / width * away
            return (w * each).sum(dim=1, keepdim=True)

        return denoise


def gaussian(D: Tensor) -> GaussianMixture:
    """Data N(0, D) of independent modes, D of shape (N, N)."""
    return GaussianMixture(torch.ones(1, dtype=D.dtype), torch.zeros_like(D)[None], D)


@dataclass(frozen=True, eq=False)
class TwoPoint:
    """Every mode +-amplitude, independently, blurred by a Gaussian.

    Attributes:
        amplitude: a, shape (N, N).
        blur: D, shape (N, N); None: 0.
    """

    amplitude: Tensor
    blur: Tensor | None = None

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Modes x_0, shape (count, 1, N, N)."""
        shape = (count, 1, *self.amplitude.shape)
        x_0 = self.amplitude * (2 * torch.randint(2, shape, generator=generator) - 1)
        if self.blur is not None:
            x_0 = x_0 + self.blur.sqrt() * torch.randn(shape, generator=generator).to(x_0)
        return x_0

    def denoiser(self, process: Process) -> Denoiser:
        """The exact E[x_0 | x_n]."""

        def denoise(x: Tensor, n: float) -> Tensor:
            alpha, sigma = process.marginal(n)
            D = torch.zeros_like(self.amplitude) if self.blur is None else self.blur
            g = alpha**2 * D + sigma**2
            on_x, on_tanh, inner = (
                c.to(x)
                for c in (
                    alpha * D / g,
                    self.amplitude * sigma**2 / g,
                    alpha * self.amplitude / g,
                )
            )
            estimate = on_x * x + on_tanh * torch.tanh(inner * x)
            return torch.where(process.frozen, x, estimate)

        return denoise
