"""Inverse renormalisation: a critical field of M x M sites as the large scales of N x N ones.

At a critical point a lattice of N sites per side looks, on its own scales, like one of M: with
integer wave numbers n and modes X(n) of the orthonormal basis,

    X_N(n) = sqrt(S0_N(n) / S0_M(n)) X_M(n)    in distribution, for n << M.

The spectrum of the larger lattice follows from that of the smaller one. With the lattice momentum
p(n), p^2 = 4 sin^2(k_x / 2N) + 4 sin^2(k_y / 2N), which is 2 pi n / N at small n,

    S0_N(n) = (p_M(n) / p_N(n))^(2 - eta) S0_M(n)    at small n, where the box is felt,
    S0_N(k / N) = S0_M(k / M)                        at large n, where the lattice is,

joined between the eighth and the sixteenth wave, a factor of at most two at a time. For the Ising
model eta = 1/4.

A block-spin step of the renormalisation group goes from N to M; it loses the short scales, which
the reversed process draws anew. It starts at an effective resolution R < M, where modes near the
edge of the M x M lattice, which the lattice spoils, are noise:

    x_n = alpha_n sqrt(S0_N / S0_M) X_M + sigma_n eps,    N(0, S0_N) where M has no mode.

A network trained at one size serves all larger ones. While more than half of the modes are active
it sees a larger box of the same lattice spacing, lambda being in units of its pixels. Once no
more are, the low modes of the N x N lattice are those of an N/2 x N/2 one, up to the factor above,
and it is shown that lattice: down to the size it was trained at, where the box is felt as it was
then. So the step can be taken again and again (Efthymiou et al., arXiv 1810.02372; Bachtis et al.,
arXiv 2107.00466).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.adaptive import active_size, modes_below_edge
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import Start
from skild_physics.diffusion.schedule import LinearSchedule, LogLinearSchedule, Schedule
from skild_physics.files import InputError
from skild_physics.kspace import Basis, half_periods, wavenumbers

SMALLEST = 32
# in radians per box side: where one form of the spectrum gives way to the other
FIRST, LAST = 8 * 2 * math.pi, 16 * 2 * math.pi


def critical_process(process: Process, N: int, eta: float = 0.25) -> Process:
    """The process of critical fields of another size, from the largest to the smallest scale.

    Unlike :meth:`Process.resized` it knows that the box is felt at every size alike: the spectrum
    is continued by scale invariance, the schedule runs from the scale of the new lattice to where
    it ended before in units of the box, and k_c stays.

    Args:
        process: the process of critical M x M fields, M at least 32 or N.
        N: side of the larger lattice.
        eta: anomalous dimension.

    Raises:
        InputError: N is smaller than M, M smaller than 32 and than N, or a schedule that does not
            know where it ends.
    """
    M = process.N
    if N < M or (M < SMALLEST and N != M):
        raise InputError(
            f"a critical spectrum can be continued from {SMALLEST} x {SMALLEST} or more to larger "
            f"lattices, not from {M} to {N}"
        )
    S0, side = process.S0.cpu(), M
    while side < N:
        wider = min(2 * side, N)
        S0 = _continued(S0, process.basis, wider, eta)
        side = wider
    finer = _finer(process.schedule, N / M)
    return replace(process, S0=S0.to(process.S0.device), schedule=finer)


def critical_denoiser(
    denoisers: Sequence[tuple[Process, Denoiser]], snr_threshold: float
) -> Denoiser:
    """The estimate of x_0 on the largest of a series of lattices, each step on the smallest it can.

    Args:
        denoisers: processes of critical fields of growing size, all in the same basis, with a
            denoiser for each.
        snr_threshold: signal-to-noise ratio below which a mode is taken for noise.
    """
    largest = denoisers[-1][0]

    def estimate(x_n: Tensor, n: float) -> Tensor:
        lam = float(largest.lam(n))
        for process, denoise in denoisers:
            if process is largest:
                break
            end = float(process.lam(process.T))
            n_here = process.step_at(min(lam, end))
            if active_size(process, n_here, snr_threshold, process.N // 4) > process.N // 2:
                continue
            N, low = process.N, modes_below_edge(process.N, process)
            ratio = torch.sqrt(process.S0 / largest.S0[:N, :N]).to(x_n)
            # the wave at the edge is noise, and a network that is shown all modes expects it
            x_small = denoise(ratio * x_n[..., :N, :N], n_here) / ratio
            x_0 = torch.zeros_like(x_n)
            x_0[..., :low, :low] = x_small[..., :low, :low]
            return torch.where(largest.frozen, x_n, x_0)
        return denoisers[-1][1](x_n, n)

    return estimate


def _continued(S0: Tensor, basis: Basis, N: int, eta: float) -> Tensor:
    # imported here: every model is loaded through this module, and few are continued
    from scipy.interpolate import RegularGridInterpolator

    M = S0.shape[-1]
    own, d = half_periods(M, basis), half_periods(N, basis).astype(float)
    axis, first = np.unique(own, return_index=True)
    p, p_N = (wavenumbers(side, basis, "lattice") / side for side in (M, N))
    # the zero mode has no place on a power law, and is left out of all interpolations
    p[0, 0] = p_N[0, 0] = 1.0
    ln_S = np.log(S0.numpy())[np.ix_(first, first)]
    ln_p = np.log(p)[np.ix_(first, first)]

    def at(values: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        where = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).clip(max=axis[-1])
        found: NDArray[np.float64] = RegularGridInterpolator((axis, axis), values)(where)
        return found

    by_box = at(ln_S + (2 - eta) * ln_p, d) - (2 - eta) * np.log(p_N)
    by_lattice = at(ln_S, d * M / N)
    k = wavenumbers(N, basis).clip(min=FIRST)
    joint = (np.log(k / FIRST) / np.log(LAST / FIRST)).clip(max=1)
    ln_new = (1 - joint) * by_box + joint * by_lattice
    ln_new[0, 0] = np.log(float(S0[0, 0])) + (2 - eta) * np.log(N / M)
    return torch.as_tensor(np.exp(ln_new))


def _finer(schedule: Schedule, ratio: float) -> Schedule:
    """The schedule that begins at a smaller scale, in units of the box, and ends at the same."""
    match schedule:
        case LinearSchedule():
            return replace(schedule, lambda_i=schedule.lambda_i * ratio)
        case LogLinearSchedule():
            return replace(schedule, lambda_i=schedule.lambda_i - 2 * math.log10(ratio))
    raise InputError("only linear and log-linear schedules can be continued to larger lattices")


def rescaled(
    process: Process, denoise: Denoiser, own: Process, resolution: float, snr: float
) -> Start:
    """The start of N x N fields whose large scales are those of given critical M x M ones.

    Args:
        process: the process of N x N fields.
        denoise: the estimate of x_0 for it.
        own: the process of the given fields (B, C, M, M), for its spectrum.
        resolution: R at the start, in pixels per side; what is finer is drawn anew.
        snr: signal-to-noise ratio that counts as resolved.

    Raises:
        InputError: M larger than N, or a resolution that is not between 0 and M, or beyond the end
            of the schedule; in drawing, fields of another size.
    """
    M, N = own.N, process.N
    if M > N:
        raise InputError(f"fields must be at most {N} wide, got {M} x {M}")
    if not 0 < resolution <= M:
        raise InputError(f"resolution must lie between 0 and {M}, got {resolution:g}")
    n = process.step_at_resolution(resolution, snr)
    alpha, _ = process.marginal(n)
    low = modes_below_edge(M, process) if M < N else N
    known = torch.zeros_like(alpha)
    known[:low, :low] = alpha[:low, :low]
    spread = torch.sqrt(process.S0 * (1 - known**2)).float()
    ratio = torch.sqrt(process.S0[:low, :low] / own.S0.to(process.S0)[:low, :low])
    carried = (known[:low, :low] * ratio).float()

    def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
        if given.shape[-2:] != (M, M):
            raise InputError(f"fields must be {M} x {M}, got {given.shape[-2]} x {given.shape[-1]}")
        X = kspace.forward(given.to(spread), process.basis)
        x = torch.zeros(*X.shape[:-2], N, N).to(X)
        x[..., :low, :low] = carried * X[..., :low, :low]
        return x + spread * noise.like(x), denoise

    return Start(process, n, resolution, draw, snr, expected=own.S0)
