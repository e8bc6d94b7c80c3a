"""The loop of :mod:`skild_physics.diffusion.philox`, compiled for processors."""

from typing import Any

import numpy as np
import torch
from numba import float32, int32, njit, uint32
from numba.extending import register_jitable
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.diffusion import philox as source
from skild_physics.diffusion.philox import ANGLE, LOG_2, ROOT_HALF, F
from skild_physics.kernels import PLAIN, kernel

philox: Any = register_jitable(forceinline=True)(source.philox)
_log: Any = register_jitable(forceinline=True)(source.log_near_one)
_sin_cos: Any = register_jitable(forceinline=True)(source.sin_cos)


@njit(forceinline=True)
def _pair(w, v):  # type: ignore[no-untyped-def]
    """Two normal values of two random words."""
    bits = np.float32(float32(uint32(w)) + F(0.5)).view(np.int32)
    # u = m 2^(exponent - 32)
    exponent = int32(int32(bits - int32(ROOT_HALF)) >> int32(23))
    m = np.int32(bits - int32(exponent << int32(23))).view(np.float32)
    r = np.sqrt((float32(int32(exponent - int32(32))) * LOG_2 + _log(m)) * F(-2))
    quarters = (v + 2**29) >> 30
    s, c = _sin_cos(float32(int32(v - (quarters << 30))) * ANGLE)
    x, y = (s, c) if quarters & 1 else (c, s)
    x = -x if (quarters + 1) & 2 else x
    y = -y if quarters & 2 else y
    return r * x, r * y


@kernel(error_model="numpy")
def _fill(out: NDArray[np.float32], words: NDArray[np.int64], draw: int) -> None:
    for i in range(len(words)):
        k0, k1, row = words[i, 0], words[i, 1], out[i]
        for block in range(len(row) // 4):
            w0, v0, w1, v1 = philox(block, 0, draw, 0, k0, k1)
            row[4 * block], row[4 * block + 1] = _pair(w0, v0)
            row[4 * block + 2], row[4 * block + 3] = _pair(w1, v1)


def filled(words: Tensor, blocks: int, draw: int) -> Tensor:
    """As :func:`skild_physics.diffusion.philox.computed`, of keys on the CPU."""
    if PLAIN:
        return source.computed(words, blocks, draw)
    whole = torch.empty(len(words), 4 * blocks)
    _fill(whole.numpy(), words.numpy(), draw)
    return whole
