"""Standard normal fields, each a function of its own key alone: Philox4x32-10 and Box-Muller.

Philox (Salmon et al., SC11, doi 10.1145/2063384.2063405) turns a counter of four words of 32 bits
and a key of two into four random words. The counter is (block, 0, draw, 0): block b of a draw gives
the values 4b to 4b + 3 of a field in the order of memory. Two words w, v give two of them,

    u = (w + 1/2) / 2^32,  r = sqrt(-2 log u),  r cos(2 pi v / 2^32),  r sin(2 pi v / 2^32)

(Box and Muller, Ann. Math. Stat. 29, 610 (1958)), in float32, u rounded to it: up to 6.76 standard
deviations, within 4 units of 2^-24 of r. Logarithm, sine and cosine are series in operations that
IEEE 754 rounds in one way, so a compiled loop on the CPU and torch on any other device give the
same bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

BIT_GENERATOR = "Philox4x32-10"
F: Any = np.float32
LOG_2 = F(math.log(2))
ANGLE = F(2 * math.pi / 2**32)
ROOT_HALF = int(np.sqrt(F(0.5)).view(np.int32))
"""Bits of sqrt(1/2)."""


def key_words(keys: Sequence[int], device: torch.device) -> Tensor:
    """Keys in [0, 2^64) as what :func:`normal_fields` takes, words (B, 2) on a device."""
    wide = np.array(keys, np.uint64)
    words = np.stack([wide & np.uint64(2**32 - 1), wide >> np.uint64(32)], axis=1)
    # the device is not waited for
    return torch.from_numpy(words.astype(np.int64)).to(device, non_blocking=True)


def normal_fields(words: Tensor, shape: tuple[int, ...], draw: int = 0) -> Tensor:
    """Independent N(0, 1) fields (B, *shape), float32, on the device of the keys.

    Args:
        words: the key of each field, see :func:`key_words`.
        shape: of a field.
        draw: number of the draw, in [0, 2^32); others are independent.
    """
    count, values = len(words), math.prod(shape)
    blocks = -(-values // 4)
    fill = computed
    if words.device.type == "cpu":
        # imported here so that what draws nothing need not wait for the compiler
        from skild_physics.diffusion.philox_compiled import filled as fill
    whole = fill(words, blocks, draw)
    return whole.narrow(1, 0, values).reshape(count, *shape)


# the same source for integers and float32 numbers of a compiled loop and for tensors of torch


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """The four random words of a counter and a key: 32 bits each, held in int64."""
    mask = 2**32 - 1
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((b >> 32) ^ c1 ^ k0) & mask, b
        c2, c3 = ((a >> 32) ^ c3 ^ k1) & mask, a
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1 & mask, c2, c3 & mask


def log_near_one(m: Any) -> Any:
    """The logarithm of m in [sqrt(1/2), sqrt(2)): 2 artanh((m - 1) / (m + 1))."""
    s = (m - F(1)) / (m + F(1))
    z = s * s
    return s * ((((z * F(2 / 9) + F(2 / 7)) * z + F(2 / 5)) * z + F(2 / 3)) * z + F(2))


def sin_cos(t: Any) -> Any:
    """Sine and cosine of t in [-pi / 4, pi / 4]."""
    z = t * t
    s = ((z * F(1 / 362880) - F(1 / 5040)) * z + F(1 / 120)) * z - F(1 / 6)
    c = (((z * F(-1 / 3628800) + F(1 / 40320)) * z - F(1 / 720)) * z + F(1 / 24)) * z - F(1 / 2)
    return s * z * t + t, c * z + F(1)


def computed(words: Tensor, blocks: int, draw: int) -> Tensor:
    """Values (B, 4 blocks) by operations of torch."""
    block = torch.arange(blocks, device=words.device).expand(len(words), -1)
    zero = torch.zeros_like(block)
    w0, v0, w1, v1 = philox(block, zero, zero + draw, zero, *words.unsqueeze(1).unbind(-1))
    w, v = torch.stack([w0, w1], dim=-1), torch.stack([v0, v1], dim=-1)
    bits = (w.float() + 0.5).view(torch.int32)
    exponent = (bits - ROOT_HALF) >> 23
    m = (bits - (exponent << 23)).view(torch.float32)
    square = ((exponent - 32).float() * LOG_2 + log_near_one(m)) * F(-2)
    # the square root of float32 is not that of IEEE 754 everywhere
    r = square.double().sqrt().float()
    quarters = (v + 2**29) >> 30
    s, c = sin_cos((v - (quarters << 30)).float() * ANGLE)
    odd = (quarters & 1).bool()
    x = torch.where(odd, s, c) * (1 - ((quarters + 1) & 2))
    y = torch.where(odd, c, s) * (1 - (quarters & 2))
    return torch.stack([r * x, r * y], dim=-1).flatten(1)
