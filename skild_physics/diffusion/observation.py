"""Real coarse fields y = R x R^T, M x M, R known: what they say, and where the process starts.

With Y the modes of y, K = B_M R B_N^T and K_0 the part of K that acts on the low modes, an estimate
of these is

    X^ = K_0^(-1) Y K_0^(-T) = X + e,

where e, of variance a^2, is what aliases into them, known from S0. The process itself adds noise to
X; e is made a part of that noise, mode by mode:

    x_n = beta X^ + sqrt(S0 - beta^2 (S0 + a^2)) eps,    beta^2 = min(alpha_n^2, S0 / (S0 + a^2)).

Modes that y does not hold have a = infinity: beta = 0 and x_n is drawn from N(0, S0). The start n
is where the first of these has the signal-to-noise ratio that counts as resolved, so that above it
nothing is missing; or the end of the schedule, if that comes before.

Every estimate D of x_0 is drawn towards y at low k,

    D <- D + g K_0^(-1) (Y - K D K^T) K_0^(-T),    g = r^2 / (r^2 + a_n^2),

with the gain of a Kalman filter mode by mode: r^2 = S0 (1 - abar_n) is what D leaves open in
Gaussian data, a_n^2 what of it aliases into the mode. The result is made to agree exactly (g = 1;
the range-null space decomposition of Wang et al., DDNM, arXiv 2212.00490), so that, down-sampled
again, it is y.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import Start, starting_step
from skild_physics.diffusion.schedule import lambda_at_resolution
from skild_physics.fields.downsampling import Downsampling, downsample, downsampling_matrix
from skild_physics.files import InputError

MEASURED = 1e-6
"""How far the low modes of K_0^(-1) K may be from the identity and still count as measured."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What coarse M x M fields say about the modes of N x N ones.

    Args:
        process: the process of N x N fields.
        kernel: how the coarse fields were made.
        M: their side.

    Raises:
        InputError: an unknown kind, or M not in 1..N.
    """

    process: Process
    kernel: Downsampling
    M: int

    @cached_property
    @torch.inference_mode(False)
    def K(self) -> Tensor:
        """Coarse modes from fine ones, one axis, float64, shape (M, N)."""
        R = downsampling_matrix(self.kernel, self.process.N, self.M, self.process.basis)
        B_M, B_N = (
            torch.tensor(kspace.basis_matrix(size, self.process.basis))
            for size in (self.M, self.process.N)
        )
        K: Tensor = B_M @ R @ B_N.T
        return K.to(self.process.S0.device)

    @cached_property
    @torch.inference_mode(False)
    def inverse(self) -> Tensor:
        """K_0^(-1), the inverse of K on the low modes, shape (M, M)."""
        inverse: Tensor = torch.linalg.pinv(self.K[:, : self.M].cpu(), rtol=1e-4).to(self.K)
        return inverse

    @cached_property
    @torch.inference_mode(False)
    def _response(self) -> Tensor:
        """K_0^(-1) K, estimates of low modes from all modes of one axis, shape (M, N)."""
        return self.inverse @ self.K

    @property
    def variance(self) -> Tensor:
        """Of every mode of y, shape (M, M)."""
        squares = self.K**2
        return squares @ self.process.S0 @ squares.T

    @cached_property
    @torch.inference_mode(False)
    def alias_variance(self) -> Tensor:
        """a^2 of every mode, in the units of S0; infinite where y says nothing, shape (N, N)."""
        M, S0 = self.M, self.process.S0
        a2 = torch.full_like(S0, float("inf"))
        a2[:M, :M] = self._aliased(S0)
        own = self._response[:, :M]
        off = (own - torch.eye(M, dtype=own.dtype, device=own.device)).abs().amax(dim=1) > MEASURED
        a2[:M][off] = float("inf")
        a2[:, :M][:, off] = float("inf")
        return a2

    def step(self, snr: float) -> float:
        """The step at which the first mode that y does not hold has this signal-to-noise ratio."""
        missing = self.process.k_eff[torch.isinf(self.alias_variance)]
        if not len(missing):
            return self.process.step_at(float(self.process.lam(self.process.T)) * 1e-6)
        lam = lambda_at_resolution(float(missing.min()) / (2**0.5 * torch.pi), snr)
        return self.process.step_at(min(lam, float(self.process.lam(self.process.T))))

    def estimate(self, coarse: Tensor) -> Tensor:
        """X^, zero where y says nothing, from fields (..., M, M); shape (..., N, N)."""
        Y = kspace.forward(coarse, self.process.basis)
        return self._spread(Y)

    def start(self, coarse: Tensor, n: float, noise: Noise) -> Tensor:
        """Modes x_n drawn given fields (sample, channel, M, M)."""
        S0, a2 = self.process.S0, self.alias_variance
        alpha = self.process.marginal(n).alpha
        beta2 = torch.minimum(alpha**2, S0 / (S0 + a2))
        # infinite a^2 has beta = 0: the product is 0, not nan
        used = torch.where(beta2 > 0, beta2 * (S0 + a2), 0.0)
        estimate = self.estimate(coarse)
        spread = torch.sqrt((S0 - used).clamp(min=0)).to(estimate)
        return beta2.sqrt().to(estimate) * estimate + spread * noise.like(estimate)

    def project(self, X: Tensor, Y: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Modes X changed at low k so that, down-sampled, they have the modes Y if gain is 1."""
        K = self.K.to(X)
        return X + self._spread(Y - K @ X @ K.T, gain)

    def gain(self, n: float) -> Tensor:
        """g of the low modes at step n, shape (M, M)."""
        M = self.M
        r2 = self.process.S0 * -torch.expm1(-self.process.exponent(n))
        return r2[:M, :M] / (r2[:M, :M] + self._aliased(r2)).clamp(min=torch.finfo(r2.dtype).tiny)

    def guided(self, denoise: Denoiser, coarse: Tensor) -> Denoiser:
        """The denoiser whose estimates are drawn towards these coarse fields."""
        Y = kspace.forward(coarse, self.process.basis)
        return lambda x_n, n: self.project(denoise(x_n, n), Y, self.gain(n))

    def residual(self, fields: Tensor, coarse: Tensor) -> float:
        """Root mean square of R x R^T - y over that of y."""
        R = downsampling_matrix(self.kernel, self.process.N, self.M, self.process.basis).to(fields)
        away = R @ fields @ R.T - coarse
        return float(away.square().mean().sqrt() / coarse.square().mean().sqrt())

    def _aliased(self, variance: Tensor) -> Tensor:
        """Variance that modes of this variance (N, N) add to estimates of low ones, (M, M)."""
        squares = self._response**2
        own = variance[: self.M, : self.M]
        return (squares @ variance @ squares.T - own).clamp(min=0)

    def _spread(self, Y: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        inverse = self.inverse.to(Y)
        X = torch.zeros(*Y.shape[:-2], self.process.N, self.process.N).to(Y)
        X[..., : self.M, : self.M] = torch.as_tensor(gain).to(Y) * (inverse @ Y @ inverse.T)
        return X


@dataclass(frozen=True, eq=False)
class ObservedStart(Start):
    """The start from coarse fields; on a lattice that the network takes, results may be smaller."""

    coarse: Observation | None = None
    wanted: int = 0

    @property
    def size(self) -> int:
        """Side of the fields made."""
        return self.wanted

    def _cropped(self, fields: Tensor) -> Tensor:
        if self.wanted == self.process.N:
            return fields
        return downsample(fields, "spectral", self.wanted, self.process.basis)

    def shown(self, x: Tensor, given: Tensor) -> Tensor:
        """The state as fields."""
        return self._cropped(super().shown(x, given))

    def check_states(self) -> None:
        """See :meth:`Start.check_states`."""
        if self.wanted != self.process.N:
            raise InputError(
                f"`start`: fields of {self.wanted} x {self.wanted} are made on a lattice of "
                f"{self.process.N} x {self.process.N} here, whose state they do not tell"
            )

    def finished(self, fields: Tensor, given: Tensor) -> Tensor:
        """The fields, made to agree with the coarse ones."""
        assert self.coarse is not None
        # the process never moves a zero mode that it does not attenuate, not even to agree
        basis = self.process.basis
        X = kspace.forward(fields, basis)
        Y = kspace.forward(given.float().cpu(), basis)
        return self._cropped(kspace.inverse(self.coarse.project(X, Y), basis))


def observed(
    process: Process,
    denoise: Denoiser,
    M: int,
    kernel: Downsampling,
    snr: float,
    size: int | None = None,
) -> Start:
    """The start from real coarse fields (B, C, M, M).

    Args:
        process: the forward process of fields of side N.
        denoise: the estimate of x_0.
        M: side of the coarse fields.
        kernel: how they were made.
        snr: signal-to-noise ratio that counts as resolved.
        size: side of the results, at most N, of which the last modes are left out then; None: N.

    Raises:
        InputError: M larger than N, an unknown kernel, or a factor that the schedule does not
            reach; in drawing, coarse fields of another size.
    """
    N = process.N
    if M > N:
        raise InputError(f"coarse fields must be at most {N} wide, got {M}")
    starting_step(process, N / M, snr)
    seen = Observation(process, kernel, M)
    n = seen.step(snr)

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
        if given.shape[-2:] != (M, M):
            raise InputError(
                f"coarse fields must be {M} x {M}, got {given.shape[-2]} x {given.shape[-1]}"
            )
        y = given.to(process.S0.device, torch.float32)
        return seen.start(y, n, noise), seen.guided(denoise, y)

    wanted = N if size is None else size
    resolution = float(process.resolution(n, snr))
    agrees = seen.residual if wanted == N else None
    return ObservedStart(
        process, n, resolution, draw, snr, agrees, seen.variance, coarse=seen, wanted=wanted
    )
