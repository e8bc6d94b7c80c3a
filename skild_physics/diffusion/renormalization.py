"""Inverse renormalisation: a critical field of M x M sites as the large scales of N x N ones.

At a critical point a lattice of N sites per side looks, on its own scales, like one of M: with
integer wave numbers n and modes X(n) of the orthonormal basis,

    X_N(n) = sqrt(S0_N(n) / S0_M(n)) X_M(n)    in distribution, for n << M,

where the factor is (N/M)^(1 - eta/2) up to lattice corrections, (N/M)^(7/8) for the Ising model. A
block-spin step of the renormalisation group goes from N to M; it loses the short scales, which the
reversed process draws anew. It starts at an effective resolution R < M, where modes near the edge
of the M x M lattice, which the lattice spoils, are noise:

    x_n = alpha_n sqrt(S0_N / S0_M) X_M + sigma_n eps,    N(0, S0_N) where M has no mode.

The network sees lambda in units of its own pixels, so one trained at any size serves all, and the
step can be taken again and again (Efthymiou et al., arXiv 1810.02372; Bachtis et al., arXiv
2107.00466).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.diffusion.adaptive import modes_below_edge
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SampleNoise
from skild_physics.diffusion.superresolution import Sampled, Sampling, no_progress, reverse


def enlarge(
    process: Process,
    denoise: Denoiser,
    fields: Tensor,
    own: Process,
    resolution: float,
    tau: float,
    sampling: Sampling,
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Critical fields of N x N sites whose large scales are those of critical M x M fields.

    Args:
        process: the process of N x N fields.
        denoise: estimate of x_0 for it.
        fields: critical fields, shape (sample, channel, M, M), of any real dtype.
        own: the process of fields of their size, for its spectrum.
        resolution: R at the start, in pixels per side; what is finer is drawn anew.
        tau: signal-to-noise ratio that counts as resolved.
        sampling: how to sample.
        progress: called with the number of fields done.

    Raises:
        ValueError: fields of another size than ``own`` or larger than N, or a resolution that is
            not between 0 and M, or beyond the end of the schedule.
    """
    M, N = own.N, process.N
    if fields.shape[-2:] != (M, M) or M > N:
        raise ValueError(
            f"fields must be {M} x {M} and at most {N} wide, got {fields.shape[-2]} x "
            f"{fields.shape[-1]}"
        )
    if not 0 < resolution <= M:
        raise ValueError(f"resolution must lie between 0 and {M}, got {resolution:g}")
    n = process.step_at_resolution(resolution, tau)
    alpha, _ = process.marginal(n)
    low = modes_below_edge(M, process) if M < N else N
    known = torch.zeros_like(alpha)
    known[:low, :low] = alpha[:low, :low]
    spread = torch.sqrt(process.S0 * (1 - known**2)).float()
    ratio = torch.sqrt(process.S0[:low, :low] / own.S0.to(process.S0)[:low, :low])
    carried = (known[:low, :low] * ratio).float()

    def start(first: int, last: int, noise: SampleNoise) -> tuple[Tensor, Denoiser]:
        X = kspace.forward(fields[first:last].to(spread), process.basis)
        x = torch.zeros(*X.shape[:-2], N, N).to(X)
        x[..., :low, :low] = carried * X[..., :low, :low]
        return x + spread * noise.like(x), denoise

    return reverse(process, start, len(fields), n, sampling, progress)
