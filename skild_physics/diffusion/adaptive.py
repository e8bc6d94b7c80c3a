"""Resolution-adaptive evaluation: the network sees only the modes that still carry a signal.

At step n a mode whose signal-to-noise ratio abar / (1 - abar) is below a threshold is noise that
says nothing about the field. The active modes fill a low square of M x M modes, and the network can
be evaluated on the M x M lattice that holds them, with the same pixel values,

    X_M = (M / N) X[:M, :M],

at (N / M)^2 times less arithmetic. The other modes have the estimate 0, with which every sampler
advances them in closed form; for data N(0, S0) this changes x_m by at most alpha_n alpha_m x_n per
mode, which is of the order of the threshold unless a single step goes far. Since lambda is given to
the network in units of its own pixels, it sees at M what it would see of a smaller lattice.

In the periodic basis an even M has room for one wave only at its highest wavenumber, so active
modes must lie below it.
"""

import math

import torch
from torch import Tensor

from skild_physics.diffusion.prediction import Denoiser, Network, Prediction, denoiser
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError


def modes_below_edge(M: int, process: Process) -> int:
    """Modes per axis that an M x M lattice resolves as larger ones do."""
    return M - 1 if process.basis == "periodic" and M % 2 == 0 else M


def _next(M: int, process: Process) -> int:
    """Smallest number of half periods that an M x M lattice does not resolve."""
    return modes_below_edge(M, process) + (1 if process.basis == "periodic" else 0)


def _check(process: Process, threshold: float, multiple: int) -> None:
    if not threshold > 0:
        raise InputError(f"threshold must be positive, got {threshold}")
    if multiple < 1 or process.N % multiple:
        raise InputError(f"multiple must divide the lattice size {process.N}, got {multiple}")


def active_size(process: Process, n: float, threshold: float, multiple: int = 1) -> int:
    """Side M of the smallest square of modes that holds all active modes at step n.

    Args:
        process: the process.
        n: step in 0..T.
        threshold: signal-to-noise ratio below which a mode is taken for noise.
        multiple: M is a multiple of it, as the network requires; it must divide N.

    Raises:
        InputError: threshold not positive, or a multiple that does not divide N.
    """
    _check(process, threshold, multiple)
    lam = float(process.lam(n))
    k_active = math.sqrt(math.log1p(1 / threshold) / lam) if lam else math.inf
    if k_active < process.k_c:
        k_active = 0.0
    for M in range(multiple, process.N, multiple):
        if math.pi * _next(M, process) > k_active:
            return M
    return process.N


def active_intervals(process: Process, threshold: float, multiple: int = 1) -> dict[int, float]:
    """The last step n at which each side M is needed, from N down; the last one ends at T.

    Steps in (end of the next larger M, end of M] are evaluated at M.

    Raises:
        InputError: as :func:`active_size`.
    """
    _check(process, threshold, multiple)
    ends: dict[int, float] = {}
    lam_end = float(process.lam(process.T))
    for M in range(process.N, 0, -multiple):
        smaller = M - multiple
        if smaller < 1:
            ends[M] = float(process.T)
            break
        k = max(math.pi * _next(smaller, process), process.k_c)
        lam = math.log1p(1 / threshold) / k**2
        if lam >= lam_end:
            ends[M] = float(process.T)
            break
        n = process.step_at(lam)
        if n > max(ends.values(), default=0.0):
            ends[M] = n
    return ends


def adaptive_denoiser(
    network: Network,
    process: Process,
    prediction: Prediction,
    threshold: float = 0.01,
    multiple: int = 1,
) -> Denoiser:
    """Like :func:`skild_physics.diffusion.prediction.denoiser`, evaluated on the active modes only.

    Args:
        network: takes fields of any side that is a multiple of ``multiple``.
        process: the process.
        prediction: what the network predicts.
        threshold: signal-to-noise ratio below which a mode is taken for noise.
        multiple: see :func:`active_size`.

    Raises:
        InputError: as :func:`active_size`, or an unknown prediction.
    """
    _check(process, threshold, multiple)
    small = {process.N: denoiser(network, process, prediction)}

    def estimate(x_n: Tensor, n: float) -> Tensor:
        M, N = active_size(process, n, threshold, multiple), process.N
        if M not in small:
            small[M] = denoiser(network, process.cropped(M), prediction)
        if M == N:
            return small[M](x_n, n)
        x_0 = torch.zeros_like(x_n)
        known = modes_below_edge(M, process)
        low = small[M](x_n[..., :M, :M] * (M / N), n)
        x_0[..., :known, :known] = low[..., :known, :known] * (N / M)
        return torch.where(process.frozen, x_n, x_0)

    return estimate
