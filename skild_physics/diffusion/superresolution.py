"""Where the reverse process starts: noise, a diffused answer, or a real coarse field.

generation   x_T ~ N(0, S0), if the schedule destroys everything.
paired       (arXiv 2605.26032) the exact forward marginal of a held-out field at full resolution,
             so the result can be compared with the truth field by field. It measures
             reconstruction, and needs the answer to start from.
observed     a coarse field y = R x R^T, M x M, R known. With Y its modes, K = B_M R B_N^T and K_0
             the part of K that acts on the low modes, an estimate of these is

                 X^ = K_0^(-1) Y K_0^(-T) = X + e,

             where e, of variance a^2, is what aliases into them, known from S0. The process itself
             adds noise to X; e is made a part of that noise, mode by mode:

                 x_n = beta X^ + sqrt(S0 - beta^2 (S0 + a^2)) eps,
                 beta^2 = min(alpha_n^2, S0 / (S0 + a^2)).

             Modes that y does not hold have a = infinity: beta = 0 and x_n is drawn from N(0, S0).
             The start n is where the first of these has the signal-to-noise ratio tau, so that
             above tau nothing is missing; or the end of the schedule, if that comes before.

             Every estimate D of x_0 is drawn towards y at low k,

                 D <- D + g K_0^(-1) (Y - K D K^T) K_0^(-T),    g = r^2 / (r^2 + a_n^2),

             with the gain of a Kalman filter mode by mode: r^2 = S0 (1 - abar_n) is what D leaves
             open in Gaussian data, a_n^2 what of it aliases into the mode. The result is made to
             agree exactly (g = 1; the range-null space decomposition of Wang et al., DDNM,
             arXiv 2212.00490), so that, down-sampled again, it is y.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.downsampling import Downsampling, downsampling_matrix
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import (
    Noise,
    SampleNoise,
    Spacing,
    ancestral,
    default_last_snr,
    multistep,
    step_grid,
)
from skild_physics.diffusion.schedule import effective_resolution, lambda_at_resolution
from skild_physics.files import InputError, check_none_given

SamplerName = Literal["multistep", "stochastic", "ancestral"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
ORDER = 2
"""Estimates that a step uses unless told otherwise."""

MEASURED = 1e-6
"""How far the low modes of K_0^(-1) K may be from the identity and still count as measured."""


@dataclass(frozen=True)
class Sampling:
    """How to go from the start to x_0.

    Attributes:
        calls: network calls per field.
        sampler: "multistep" (deterministic), "stochastic" (the same with noise) or "ancestral".
        order: estimates that a step of the first two uses: 1, 2 or 3; None: :data:`ORDER`.
        spacing: how the steps are spaced, see :func:`skild_physics.diffusion.sampler.step_grid`.
        last_snr: signal-to-noise ratio of the highest mode at the last call, which returns a mean:
            raise it (and calls) for fields of Gaussian detail, whose variance a mean lacks. None:
            :func:`skild_physics.diffusion.sampler.default_last_snr`.
        seed: root seed; field i draws from its own stream, whatever the batch.
        first: number of the first field, if these are a part of many.
        batch_size: fields at a time.

    Raises:
        InputError: an unknown sampler, batch_size < 1, or an order or last_snr where there is none.
    """

    calls: int = 20
    sampler: SamplerName = "multistep"
    order: int | None = None
    spacing: Spacing = "log-resolution"
    last_snr: float | None = None
    seed: int = 0
    first: int = 0
    batch_size: int = 64

    def noise(self, first: int, last: int) -> SampleNoise:
        """The draws of the fields ``first`` .. ``last`` - 1 of these."""
        return SampleNoise(self.seed, range(self.first + first, self.first + last))

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler must be one of {SAMPLERS}, got {self.sampler!r}")
        if self.batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {self.batch_size}")
        if self.sampler == "ancestral":
            check_none_given({"order": self.order}, "goes with multistep and stochastic sampling")
        if not self.ends_at_snr:
            whose = "goes with several `calls`, and not with `spacing=time`"
            check_none_given({"last_snr": self.last_snr}, whose)

    @property
    def ends_at_snr(self) -> bool:
        """Whether a signal-to-noise ratio sets the step of the last call."""
        return self.spacing != "time" and self.calls > 1

    def provenance(self) -> dict[str, Any]:
        """How fields were sampled, for their file; None stands for what does not apply."""
        order = ORDER if self.order is None else self.order
        last_snr = default_last_snr(self.calls) if self.last_snr is None else self.last_snr
        return {
            "steps": self.calls,
            "sampler": self.sampler,
            "order": None if self.sampler == "ancestral" else order,
            "spacing": self.spacing,
            "last_snr": last_snr if self.ends_at_snr else None,
            "seed": self.seed,
        }


class Sampled(NamedTuple):
    """float32 fields (sample, channel, N, N): what the model started from, and what it made."""

    start: Tensor
    result: Tensor


Start = Callable[[int, int, SampleNoise], tuple[Tensor, Denoiser]]
"""(first, last, noise) -> modes x_n of these fields, and the denoiser to use for them."""


def along(
    process: Process,
    denoise: Denoiser,
    x: Tensor,
    steps: Tensor,
    sampling: Sampling,
    noise: Noise,
) -> Tensor:
    """x at steps[-1] from x at steps[0], with the sampler asked for."""
    if sampling.sampler == "ancestral":
        return ancestral(process, denoise, x, steps, noise)
    tau = 1.0 if sampling.sampler == "stochastic" else 0.0
    order = ORDER if sampling.order is None else sampling.order
    return multistep(process, denoise, x, steps, order, tau, noise)


def reverse(
    process: Process,
    start: Start,
    count: int,
    n: float,
    sampling: Sampling,
    progress: Callable[[int], None],
) -> Sampled:
    """The reverse process of ``count`` fields from step n, a batch at a time."""
    grid = step_grid(process, n, sampling.calls, sampling.spacing, sampling.last_snr)
    starts, results = [], []
    for first in range(0, count, sampling.batch_size):
        last = min(first + sampling.batch_size, count)
        noise = sampling.noise(first, last)
        x, denoise = start(first, last, noise)
        starts.append(kspace.inverse(x, process.basis).cpu())
        x = along(process, denoise, x, grid, sampling, noise)
        results.append(kspace.inverse(x, process.basis).cpu())
        progress(last)
    return Sampled(torch.cat(starts), torch.cat(results))


def no_progress(done: int) -> None:
    """Say nothing of the number of fields done."""


def generate(
    process: Process,
    denoise: Denoiser,
    count: int,
    sampling: Sampling,
    channels: int = 1,
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Fields from nothing: the reverse process from N(0, S0) at the end of the schedule.

    Raises:
        InputError: count < 1, or sampling out of range.
    """
    if count < 1:
        raise InputError(f"the number of samples must be at least 1, got {count}")
    root = process.S0.sqrt().float()

    def start(first: int, last: int, noise: SampleNoise) -> tuple[Tensor, Denoiser]:
        like = torch.empty(last - first, channels, process.N, process.N, device=root.device)
        return root * noise.like(like), denoise

    return reverse(process, start, count, float(process.T), sampling, progress)


def starting_step(process: Process, factor: float, tau: float) -> float:
    """The step whose effective resolution is N / factor.

    Raises:
        InputError: factor < 1, or beyond what the schedule of the process destroys.
    """
    if not 1 <= factor < float("inf"):
        raise InputError(f"factor must be at least 1, got {factor:g}")
    lam = lambda_at_resolution(process.N / factor, tau)
    lam_end = float(process.lam(process.T))
    if lam > lam_end * (1 + 1e-9):
        largest = process.N / float(effective_resolution(lam_end, tau))
        raise InputError(
            f"factor must be at most {largest:.3g}, where the schedule of this model ends, got "
            f"{factor:g}"
        )
    return process.step_at(lam)


def super_resolve_paired(
    process: Process,
    denoise: Denoiser,
    truth: Tensor,
    factor: float,
    tau: float,
    sampling: Sampling,
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Fields reconstructed from the forward marginal of ``truth`` at resolution N / factor.

    Args:
        process: the forward process.
        denoise: estimate of x_0.
        truth: fields at full resolution, shape (sample, channel, N, N), of any real dtype.
        factor: ratio of the resolutions, any real number of at least 1.
        tau: signal-to-noise ratio that counts as resolved.
        sampling: how to sample.
        progress: called with the number of fields done.

    Raises:
        InputError: factor out of range, or sizes that differ.
    """
    if truth.shape[-1] != process.N or truth.shape[-2] != process.N:
        raise InputError(
            f"the fields are {truth.shape[-2]} x {truth.shape[-1]}, the model is for "
            f"{process.N} x {process.N}"
        )
    n = starting_step(process, factor, tau)
    alpha, sigma = (c.float() for c in process.marginal(n))

    def start(first: int, last: int, noise: SampleNoise) -> tuple[Tensor, Denoiser]:
        x_0 = kspace.forward(truth[first:last].to(alpha), process.basis)
        return alpha * x_0 + sigma * noise.like(x_0), denoise

    return reverse(process, start, len(truth), n, sampling, progress)


@dataclass(frozen=True, eq=False)
class Observation:
    """What coarse M x M fields say about the modes of N x N ones.

    Args:
        process: the process of N x N fields.
        kind: how the coarse fields were made.
        M: their side.

    Raises:
        InputError: an unknown kind, or M not in 1..N.
    """

    process: Process
    kind: Downsampling
    M: int

    @cached_property
    @torch.inference_mode(False)
    def K(self) -> Tensor:
        """Coarse modes from fine ones, one axis, float64, shape (M, N)."""
        R = downsampling_matrix(self.kind, self.process.N, self.M, self.process.basis)
        B_M, B_N = (
            torch.tensor(kspace.basis_matrix(size, self.process.basis))
            for size in (self.M, self.process.N)
        )
        K: Tensor = B_M @ R @ B_N.T
        return K

    @cached_property
    @torch.inference_mode(False)
    def inverse(self) -> Tensor:
        """K_0^(-1), the inverse of K on the low modes, shape (M, M)."""
        inverse: Tensor = torch.linalg.pinv(self.K[:, : self.M], rtol=1e-4)
        return inverse

    @cached_property
    @torch.inference_mode(False)
    def _response(self) -> Tensor:
        """K_0^(-1) K, estimates of low modes from all modes of one axis, shape (M, N)."""
        return self.inverse @ self.K

    @cached_property
    @torch.inference_mode(False)
    def alias_variance(self) -> Tensor:
        """a^2 of every mode, in the units of S0; infinite where y says nothing, shape (N, N)."""
        M, S0 = self.M, self.process.S0.cpu()
        a2 = torch.full_like(S0, float("inf"))
        a2[:M, :M] = self._aliased(S0)
        own = self._response[:, :M]
        off = (own - torch.eye(M, dtype=own.dtype)).abs().amax(dim=1) > MEASURED
        a2[:M][off] = float("inf")
        a2[:, :M][:, off] = float("inf")
        return a2

    def step(self, tau: float) -> float:
        """The step at which the first mode that y does not hold has the SNR tau."""
        missing = self.process.k_eff.cpu()[torch.isinf(self.alias_variance)]
        if not len(missing):
            return self.process.step_at(float(self.process.lam(self.process.T)) * 1e-6)
        lam = lambda_at_resolution(float(missing.min()) / (2**0.5 * torch.pi), tau)
        return self.process.step_at(min(lam, float(self.process.lam(self.process.T))))

    def estimate(self, coarse: Tensor) -> Tensor:
        """X^, zero where y says nothing, from fields (..., M, M); shape (..., N, N)."""
        Y = kspace.forward(coarse, self.process.basis)
        return self._spread(Y)

    def start(self, coarse: Tensor, n: float, noise: SampleNoise) -> Tensor:
        """Modes x_n drawn given fields (sample, channel, M, M)."""
        S0, a2 = self.process.S0, self.alias_variance.to(self.process.S0)
        alpha = self.process.marginal(n).alpha
        beta2 = torch.minimum(alpha**2, S0 / (S0 + a2))
        # infinite a^2 has beta = 0: the product is 0, not nan
        used = torch.where(beta2 > 0, beta2 * (S0 + a2), 0.0)
        estimate = self.estimate(coarse)
        spread = torch.sqrt((S0 - used).clamp(min=0)).to(estimate)
        return beta2.sqrt().to(estimate) * estimate + spread * noise.like(estimate)

    def agree(self, X: Tensor, Y: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Modes X changed at low k so that, down-sampled, they have the modes Y if gain is 1."""
        K = self.K.to(X)
        return X + self._spread(Y - K @ X @ K.T, gain)

    def gain(self, n: float) -> Tensor:
        """g of the low modes at step n, shape (M, M)."""
        M = self.M
        r2 = (self.process.S0 * -torch.expm1(-self.process.exponent(n))).cpu()
        return r2[:M, :M] / (r2[:M, :M] + self._aliased(r2)).clamp(min=torch.finfo(r2.dtype).tiny)

    def informed(self, denoise: Denoiser, coarse: Tensor) -> Denoiser:
        """The denoiser whose estimates are drawn towards these coarse fields."""
        Y = kspace.forward(coarse, self.process.basis)
        return lambda x_n, n: self.agree(denoise(x_n, n), Y, self.gain(n))

    def residual(self, fields: Tensor, coarse: Tensor) -> float:
        """Root mean square of R x R^T - y over that of y."""
        R = downsampling_matrix(self.kind, self.process.N, self.M, self.process.basis).to(fields)
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


def super_resolve_observed(
    process: Process,
    denoise: Denoiser,
    coarse: Tensor,
    kind: Downsampling,
    tau: float,
    sampling: Sampling,
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Fields of the process's size from real coarse ones.

    Args:
        process: the forward process of the target size N.
        denoise: estimate of x_0.
        coarse: coarse fields, shape (sample, channel, M, M), of any real dtype.
        kind: how they were made.
        tau: signal-to-noise ratio that counts as resolved.
        sampling: how to sample.
        progress: called with the number of fields done.

    Raises:
        InputError: coarse fields that are not square or larger than N, or an unknown kind.
    """
    M = coarse.shape[-1]
    if coarse.shape[-2] != M or M > process.N:
        raise InputError(
            f"coarse fields must be square and at most {process.N} wide, got "
            f"{coarse.shape[-2]} x {M}"
        )
    seen = Observation(process, kind, M)
    n = seen.step(tau)

    def start(first: int, last: int, noise: SampleNoise) -> tuple[Tensor, Denoiser]:
        y = coarse[first:last].to(process.S0.device, torch.float32)
        return seen.start(y, n, noise), seen.informed(denoise, y)

    made = reverse(process, start, len(coarse), n, sampling, progress)
    # the process never moves a zero mode that it does not attenuate, not even to agree
    X = kspace.forward(made.result, process.basis)
    Y = kspace.forward(coarse.float().cpu(), process.basis)
    return Sampled(made.start, kspace.inverse(seen.agree(X, Y), process.basis))
