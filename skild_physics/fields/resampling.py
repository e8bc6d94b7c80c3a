"""Fields of other sizes: coarse-grained in known ways, or interpolated to compare with."""

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr

from skild_physics.fields.downsampling import Downsampling, downsample
from skild_physics.fields.interpolation import Kernel
from skild_physics.fields.interpolation import interpolate as interpolated
from skild_physics.fields.lazy import BATCH_VALUES, basis_of, batches, channels_of
from skild_physics.fields.sources import Opening, open_fields
from skild_physics.fields.writing import check_fields_output, made_from
from skild_physics.files import InputError, check_apart
from skild_physics.memory import check_memory


def coarse_grain(
    fields: Any,
    *,
    factor: float,
    kernel: Downsampling = "box",
    samples: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **opening: Unpack[Opening],
) -> xr.DataArray:
    """Coarse fields of side N/factor, which know how they were made.

    Args:
        fields: anything that :func:`skild_physics.fields.open_fields` takes.
        factor: ratio of the sides, a real number of at least 1 that leaves whole pixels.
        kernel: box: block averages, of spins the block-spin step of Kadanoff; spectral: the low
            modes; or a smooth kernel, see :mod:`skild_physics.fields.downsampling`.
        samples: the first so many fields; None: all.
        out: file to write, see :func:`skild_physics.fields.writing.save`; None: in memory.
        overwrite: replace an existing result.
        opening: see :func:`skild_physics.fields.open_fields`. In the periodic basis kernels wrap
            around, in the cosine basis they are cut at the edges.

    Returns:
        float32 (sample, y, x) or (sample, channel, y, x), with the attribute `downsampling`.

    Raises:
        InputError: a factor that does not fit, or what opening and writing raise.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> coarse = sk.coarse_grain(np.ones((2, 8, 8)), factor=4)
    >>> coarse.shape, coarse.downsampling
    ((2, 2, 2), 'box')
    """
    if out is not None:
        check_fields_output(out)
        check_apart({"out": out}, fields)
    given = open_fields(fields, samples=samples, **opening)
    N = given.shape[-1]
    M = round(N / factor) if 1 <= factor <= N else 0
    if M < 1 or abs(N / factor - M) > 0.01 * M:
        raise InputError(f"`factor` must divide {N} x {N} fields into whole pixels, got {factor:g}")
    basis = basis_of(given)
    coarse = (
        downsample(torch.from_numpy(batch).double(), kernel, M, basis).float().numpy()
        for batch in batches(given)
    )
    made = {
        "protocol": "coarse-graining",
        "input": given.attrs.get("source", "fields"),
        "downsampling": kernel,
        "factor": N / M,
        "basis": basis,
        "boundary": given.attrs.get("boundary"),
        "beta_of_input": given.attrs.get("beta"),
        "channels": ",".join(channels_of(given)),
    }
    return made_from(coarse, given, made, out, overwrite)


def interpolate(
    fields: Any,
    *,
    factor: float,
    kernel: Kernel = "bicubic",
    samples: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **opening: Unpack[Opening],
) -> xr.DataArray:
    """Fields enlarged with a bicubic or Lanczos kernel, to compare super-resolution with.

    Args:
        fields: anything that :func:`skild_physics.fields.open_fields` takes.
        factor: ratio of the sides, a real number of at least 1.
        kernel: which.
        samples: the first so many fields; None: all.
        out: file to write, see :func:`skild_physics.fields.writing.save`; None: in memory.
        overwrite: replace an existing result.
        opening: see :func:`skild_physics.fields.open_fields`.

    Returns:
        float32 (sample, y, x) or (sample, channel, y, x).

    Raises:
        InputError: a factor below 1, or what opening and writing raise.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> sk.interpolate(np.ones((2, 8, 8)), factor=2.5).shape
    (2, 20, 20)
    """
    if not 1 <= factor < float("inf"):
        raise InputError(f"`factor` must be at least 1, got {factor:g}")
    if out is not None:
        check_fields_output(out)
        check_apart({"out": out}, fields)
    given = open_fields(fields, samples=samples, **opening)
    at_a_time = min(given.size, BATCH_VALUES)
    check_memory(f"`factor={factor:g}`", 8 * at_a_time * factor * factor)
    N = round(given.shape[-1] * factor)
    fine = (np.asarray(interpolated(batch, N, kernel), np.float32) for batch in batches(given))
    made = {
        "protocol": "interpolation",
        "input": given.attrs.get("source", "fields"),
        "kernel": kernel,
        "factor": N / given.shape[-1],
        "basis": basis_of(given),
        "boundary": given.attrs.get("boundary"),
        "channels": ",".join(channels_of(given)),
    }
    return made_from(fine, given, made, out, overwrite)
