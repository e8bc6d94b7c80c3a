"""SR3: super-resolution by a conditional diffusion model (Saharia et al., arXiv 2104.07636).

    x_n = sqrt(abar_n) x_0 + sqrt(1 - abar_n) eps,    eps ~ N(0, 1) per site

is the process of this package with S0 = 1 and one k_eff for all modes, so every sampler here serves
it, too. All scales are destroyed together; what is known of the coarse ones, a field y of M x M
pixels, is told to the network instead: f(x_n, c, lambda) with

    c = U y U^T,

the bicubic interpolation of y on the full lattice (around the torus in the periodic basis), as
further channels of its input. The reversed process starts from white noise, whatever y is. One
network serves one factor N / M, the one it was trained for.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from skild_physics.diffusion.downsampling import Downsampling, downsample
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SampleNoise
from skild_physics.diffusion.superresolution import Sampled, Sampling, no_progress, reverse
from skild_physics.files import InputError
from skild_physics.kspace import Basis

# sites that the cubic kernel reaches
_REACH = 2


def interpolated(coarse: Tensor, factor: int, basis: Basis) -> Tensor:
    """Bicubic interpolation (Keys' kernel, a = -0.75) on a lattice ``factor`` times finer.

    Args:
        coarse: fields (B, C, M, M).
        factor: ratio of the sides.
        basis: "periodic" goes on around the torus, "cosine" repeats the outermost pixels.

    Returns:
        Fields (B, C, factor M, factor M).
    """
    padding = (_REACH,) * 4
    mode = "circular" if basis == "periodic" else "replicate"
    wide = F.interpolate(F.pad(coarse, padding, mode=mode), scale_factor=factor, mode="bicubic")
    edge = _REACH * factor
    return wide[..., edge:-edge, edge:-edge]


def coarse_part(fields: Tensor, factor: int, downsampling: Downsampling, basis: Basis) -> Tensor:
    """What the network is told of full fields (B, C, N, N): made coarse, and interpolated again."""
    coarse = downsample(fields, downsampling, fields.shape[-1] // factor, basis)
    return interpolated(coarse, factor, basis)


def super_resolve_conditional(
    process: Process,
    denoiser: Callable[[Tensor], Denoiser],
    coarse: Tensor,
    sampling: Sampling,
    progress: Callable[[int], None] = no_progress,
) -> Sampled:
    """Fields of the process's size drawn given coarse ones, from white noise.

    Args:
        process: the white process of N x N fields.
        denoiser: the denoiser of a network that is told fields (B, C, N, N).
        coarse: coarse fields, shape (sample, C, M, M), of any real dtype; M must divide N.
        sampling: how to sample.
        progress: called with the number of fields done.

    Raises:
        InputError: coarse fields that are not square, or whose side does not divide N.
    """
    M, N = coarse.shape[-1], process.N
    if coarse.shape[-2] != M or N % M:
        raise InputError(
            f"coarse fields must be square with a side that divides {N}, got "
            f"{coarse.shape[-2]} x {M}"
        )
    root = process.S0.sqrt().float()

    def start(first: int, last: int, noise: SampleNoise) -> tuple[Tensor, Denoiser]:
        y = coarse[first:last].to(root)
        told = interpolated(y, N // M, process.basis)
        return root * noise.like(told), denoiser(told)

    made = reverse(process, start, len(coarse), float(process.T), sampling, progress)
    shown = [interpolated(y, N // M, process.basis) for y in torch.split(coarse.float(), 64)]
    return Sampled(torch.cat(shown).cpu(), made.result)
