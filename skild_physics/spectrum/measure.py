"""Measure a spectrum and its error bars from a stream of fields.

Fields are gathered into blocks of consecutive samples; every derived quantity theta (a shell's
variance, a parameter of the fit) gets the delete-one-block jackknife error

    sigma^2 = (B - 1)/B sum_b (theta_b - mean theta)^2,

where theta_b leaves block b out. Unlike the Gaussian formula S sqrt(2/nu) this holds for
non-Gaussian modes, and for correlated samples as long as blocks are longer than the correlation.
"""

from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import numpy as np
import xarray as xr

from skild_physics.kspace import Basis, paper_factor
from skild_physics.spectrum.fit import Method, fit_power_law
from skild_physics.spectrum.moments import ModeMoments
from skild_physics.spectrum.radial import radial_mean, shells
from skild_physics.spectrum.types import Spectrum

BATCH_SITES = 2**20


def measure_blocks(
    fields: xr.DataArray,
    basis: Basis,
    n_blocks: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> list[ModeMoments]:
    """Moments of consecutive blocks of lazily read fields, in bounded memory.

    Args:
        fields: shape (sample, y, x) with y = x, read a slice at a time.
        basis: basis of the modes.
        n_blocks: number of blocks; fewer if there are fewer fields.
        progress: called with the number of fields done.

    Raises:
        ValueError: fields hold nan or infinity.
    """
    n, batch = len(fields), max(1, BATCH_SITES // (fields.shape[1] * fields.shape[2]))
    edges = np.linspace(0, n, min(n_blocks, n) + 1).astype(int)
    blocks = []
    for start, stop in pairwise(edges):
        parts = []
        for first in range(start, stop, batch):
            last = min(first + batch, stop)
            parts.append(ModeMoments.of(fields[first:last].values[:, None], basis))
            progress(int(last))
        blocks.append(reduce(ModeMoments.merge, parts))
    return blocks


def spectrum_from_blocks(
    blocks: list[ModeMoments],
    basis: Basis,
    method: Method = "likelihood",
    k_min: float | None = None,
    k_max: float | None = None,
    source: str = "",
) -> Spectrum:
    """Variance, radial profile and fitted law with jackknife errors over blocks.

    Args:
        blocks: moments of consecutive blocks of fields, at least two.
        basis: the basis the moments were taken in.
        method: how to fit, see :mod:`skild_physics.spectrum.fit`.
        k_min: smallest wavenumber of the fit, radians per box side; None fits from the first shell.
        k_max: largest wavenumber of the fit, radians per box side.
        source: name of the data, kept with the result.

    Raises:
        ValueError: fewer than two blocks, or too few shells between k_min and k_max.
    """
    if len(blocks) < 2:
        raise ValueError(f"error bars need at least 2 blocks of fields, got {len(blocks)}")
    total = reduce(ModeMoments.merge, blocks)
    N = total.mean.shape[-1]
    k, modes, _ = shells(N, basis)
    in_fit = np.ones(len(k), bool)
    if k_min is not None:
        in_fit &= k >= k_min
    if k_max is not None:
        in_fit &= k <= k_max
    factor2 = paper_factor(N, basis) ** 2

    def profile_and_fit(moments: ModeMoments):  # type: ignore[no-untyped-def]
        per_channel = radial_mean(moments.variance * factor2, basis)
        profile = per_channel.mean(axis=0)
        fit = fit_power_law(
            k[in_fit], profile[in_fit], modes[in_fit] * len(per_channel), moments.count, method
        )
        return profile, fit

    profile, fit = profile_and_fit(total)
    without = _leave_one_out(blocks)
    replicas = [profile_and_fit(moments) for moments in without]
    scale = np.sqrt(len(blocks) - 1)
    profile_stderr = scale * np.std([p for p, _ in replicas], axis=0)
    laws = np.array([(f.law.C, f.law.k0_squared, f.law.alpha) for _, f in replicas])
    law_stderr = scale * np.std(laws, axis=0)
    return Spectrum(
        variance=total.variance * factor2,
        basis=basis,
        n_samples=total.count,
        profile=profile,
        profile_stderr=profile_stderr,
        fit=fit,
        fit_stderr=(float(law_stderr[0]), float(law_stderr[1]), float(law_stderr[2])),
        fit_range=(float(k[in_fit][0]), float(k[in_fit][-1])),
        n_blocks=len(blocks),
        source=source,
    )


def _leave_one_out(blocks: list[ModeMoments]) -> list[ModeMoments]:
    """Merged moments without each block in turn, from running merges of both ends."""
    heads = [blocks[0]]
    tails = [blocks[-1]]
    for head, tail in zip(blocks[1:-1], blocks[-2:0:-1], strict=True):
        heads.append(heads[-1].merge(head))
        tails.append(tails[-1].merge(tail))
    tails.reverse()
    inner = [h.merge(t) for h, t in zip(heads[:-1], tails[1:], strict=True)]
    return [tails[0], *inner, heads[-1]]
