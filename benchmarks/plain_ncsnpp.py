"""NCSN++ written as plainly as it reads: the network that faster versions are measured against.

The U-Net of Song et al. (arXiv 2011.13456) with sinusoidal time embedding, BigGAN residual blocks
that resample with the FIR kernel [1, 3, 3, 1], one-head attention, and a pyramid of blurred inputs
that joins the way down. Sums of two branches are divided by sqrt 2. Float32, eager, channels
first. Parameters carry the names of the public code (``all_modules.N.Conv_0.weight``), so that
weights pass between this network and every other of the family.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIR = (1.0, 3.0, 3.0, 1.0)


def time_embedding(n: Tensor, width: int) -> Tensor:
    """sin and cos of n 10^(-4 i / (width/2 - 1)), i < width/2: (B,) to (B, width) in float32."""
    i = torch.arange(width // 2, dtype=torch.float32, device=n.device)
    phase = n.float()[:, None] * torch.exp(-math.log(1e4) / (width // 2 - 1) * i)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def upfirdn(x: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """Zeros between and around the sites of (B, C, H, W), the FIR kernel, every down-th site."""
    B, C, H, W = x.shape
    z = F.pad(x.reshape(B * C, 1, H, 1, W, 1), (0, up - 1, 0, 0, 0, up - 1))
    z = F.pad(z.reshape(B * C, 1, up * H, up * W), (before, after, before, after))
    taps = torch.tensor(FIR, dtype=x.dtype, device=x.device)
    taps = up * taps / taps.sum()
    z = F.conv2d(z, torch.outer(taps, taps)[None, None], stride=down)
    return z.reshape(B, C, z.shape[-2], z.shape[-1])


def upsample(x: Tensor) -> Tensor:
    """Twice the side."""
    return upfirdn(x, up=2, down=1, before=2, after=1)


def downsample(x: Tensor) -> Tensor:
    """Half the side."""
    return upfirdn(x, up=1, down=2, before=1, after=1)


def _spread(weight: Tensor, scale: float) -> None:
    """Uniform with variance scale / (mean of fan-in and fan-out); scale 0 stands for 1e-10."""
    sites = weight[0, 0].numel()
    mean_fan = sites * (weight.shape[0] + weight.shape[1]) / 2
    bound = math.sqrt(3 * (scale or 1e-10) / mean_fan)
    nn.init.uniform_(weight, -bound, bound)


def _linear(fan_in: int, fan_out: int) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    _spread(layer.weight, 1.0)
    nn.init.zeros_(layer.bias)
    return layer


def _conv(C_in: int, C_out: int, side: int, scale: float = 1.0, stride: int = 1) -> nn.Conv2d:
    padding = side // 2 if stride == 1 else 0
    layer = nn.Conv2d(C_in, C_out, side, stride=stride, padding=padding)
    _spread(layer.weight, scale)
    nn.init.zeros_(layer.bias)
    return layer


def _norm(C: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(C // 4, 32), C, eps=1e-6)


class _Block(nn.Module):
    def __init__(
        self, C_in: int, C_out: int, *, embedding: int, dropout: float, resample: str = ""
    ):
        super().__init__()
        self.resample = {"up": upsample, "down": downsample, "": None}[resample]
        self.GroupNorm_0 = _norm(C_in)
        self.Conv_0 = _conv(C_in, C_out, 3)
        self.Dense_0 = _linear(embedding, C_out)
        self.GroupNorm_1 = _norm(C_out)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = _conv(C_out, C_out, 3, scale=0)
        if C_in != C_out or resample:
            self.Conv_2 = _conv(C_in, C_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(e))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2)


class _NIN(nn.Module):
    def __init__(self, C: int, scale: float = 0.1):
        super().__init__()
        self.W = nn.Parameter(torch.empty(C, C))
        self.b = nn.Parameter(torch.zeros(C))
        _spread(self.W, scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bcyx,cd->bdyx", x, self.W) + self.b[:, None, None]


class _Attention(nn.Module):
    def __init__(self, C: int):
        super().__init__()
        self.GroupNorm_0 = _norm(C)
        self.NIN_0 = _NIN(C)
        self.NIN_1 = _NIN(C)
        self.NIN_2 = _NIN(C)
        self.NIN_3 = _NIN(C, scale=0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (nin(h).flatten(2) for nin in (self.NIN_0, self.NIN_1, self.NIN_2))
        w = torch.einsum("bcs,bct->bst", q, k) / math.sqrt(x.shape[1])
        h = torch.einsum("bst,bct->bcs", w.softmax(dim=-1), v)
        return (x + self.NIN_3(h.reshape(x.shape))) / math.sqrt(2)


class _Pyramid(nn.Module):
    """One level of the input pyramid: blur, then a convolution of stride 2."""

    def __init__(self, C_in: int, C_out: int):
        super().__init__()
        self.Conv2d_0 = _conv(C_in, C_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.Conv2d_0(upfirdn(x, up=1, down=1, before=2, after=2))


class PlainNCSNpp(nn.Module):
    """Fields (B, C, N, N) and steps n (B,) to fields (B, C, N, N).

    Args:
        size: N, which decides the levels that have attention.
        channels: width of the finest level for multiplier 1, and of the time embedding.
        multipliers: width of each level over ``channels``, finest first; each level halves the
            side, so N must be a multiple of 2^(levels - 1).
        blocks: residual blocks of each level on the way down; one more on the way up.
        attention: sides of the levels with attention; the coarsest always has one in its middle.
        dropout: rate inside every residual block while training.
        field_channels: C.
    """

    def __init__(
        self,
        size: int,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2),
        blocks: int = 6,
        attention: tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.1,
        field_channels: int = 3,
    ):
        super().__init__()
        self.channels = channels
        self.blocks = blocks
        self.attends = [size // 2**level in attention for level in range(len(multipliers))]
        block = partial(_Block, embedding=4 * channels, dropout=dropout)
        coarsest = len(multipliers) - 1

        C, C_pyramid = channels, field_channels
        skips = [C]
        parts: list[nn.Module] = [
            _linear(channels, 4 * channels),
            _linear(4 * channels, 4 * channels),
            _conv(field_channels, C, 3),
        ]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                parts.append(block(C, multiplier * channels))
                C = multiplier * channels
                if self.attends[level]:
                    parts.append(_Attention(C))
                skips.append(C)
            if level < coarsest:
                parts += [block(C, C, resample="down"), _Pyramid(C_pyramid, C)]
                C_pyramid = C
                skips.append(C)
        parts += [block(C, C), _Attention(C), block(C, C)]
        for level in range(coarsest, -1, -1):
            for _ in range(blocks + 1):
                parts.append(block(C + skips.pop(), multipliers[level] * channels))
                C = multipliers[level] * channels
            if self.attends[level]:
                parts.append(_Attention(C))
            if level > 0:
                parts.append(block(C, C, resample="up"))
        parts += [_norm(C), _conv(C, field_channels, 3, scale=0)]
        self.all_modules = nn.ModuleList(parts)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        part = iter(self.all_modules)
        e = next(part)(time_embedding(n, self.channels).to(x.dtype))
        e = next(part)(F.silu(e))
        coarsest = len(self.attends) - 1

        h, pyramid = next(part)(x), x
        skips = [h]
        for level, attends in enumerate(self.attends):
            for _ in range(self.blocks):
                h = next(part)(h, e)
                if attends:
                    h = next(part)(h)
                skips.append(h)
            if level < coarsest:
                h = next(part)(h, e)
                h = pyramid = (next(part)(pyramid) + h) / math.sqrt(2)
                skips.append(h)
        h = next(part)(h, e)
        h = next(part)(h)
        h = next(part)(h, e)
        for level in range(coarsest, -1, -1):
            for _ in range(self.blocks + 1):
                h = next(part)(torch.cat([h, skips.pop()], dim=1), e)
            if self.attends[level]:
                h = next(part)(h)
            if level > 0:
                h = next(part)(h, e)
        h = F.silu(next(part)(h))
        return next(part)(h)
