"""Bicubic and Lanczos interpolation, with Pillow's kernels (Keys, a = -1/2; three lobes).

Each fine pixel is a weighted mean of the coarse ones around it, with weights that are cut at the
edge of the picture and normalised. This is the bicubic enlargement of a picture that papers on
super-resolution compare with.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skild_physics.files import InputError

Kernel = Literal["bicubic", "lanczos"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def interpolate(coarse: NDArray[np.floating], size: int, kernel: Kernel) -> NDArray[np.float32]:
    """Fields of ``size`` x ``size`` pixels from fields (sample, channel, M, M), float32.

    Raises:
        InputError: an unknown kernel, or size < M.
    """
    if kernel not in _FILTERS:
        raise InputError(f"`kernel` must be one of {', '.join(KERNELS)}, got {kernel!r}")
    if size < coarse.shape[-1]:
        raise InputError(f"`size` must be at least {coarse.shape[-1]}, got {size}")
    flat = coarse.reshape(-1, *coarse.shape[-2:]).astype(np.float32)
    fine = [
        np.asarray(Image.fromarray(field).resize((size, size), _FILTERS[kernel])) for field in flat
    ]
    return np.stack(fine).reshape(*coarse.shape[:-2], size, size)
