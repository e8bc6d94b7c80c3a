"""NCSN++ of Song et al. (arXiv 2011.13456) for fields, with weights named as in score_sde.

The step n enters through e = W2 silu(W1 [sin(n w), cos(n w)]), w_i = 10000^(-i / (half - 1)) for
i < half = channels / 2. A residual block maps x to

    (S R x + W2 drop silu(norm(W1 R silu(norm(x)) + D silu(e)))) / sqrt 2

with 3 x 3 convolutions W1 and W2, a 1 x 1 convolution or nothing S, and R nothing, or resampling
by two with the kernel [1, 3, 3, 1] along each axis. Self-attention at low resolutions adds
W softmax(q k^T / sqrt C) v to its input, again over sqrt 2. On the way down the blurred and
strided input pyramid is added to the coarsened features; on the way up every block takes a skip.
Fields continue as zero beyond their borders.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_physics.files import InputError
from skild_physics.networks.rows import Linear

# variances of the initial weights that end a residual branch are this much smaller
_TINY = 1e-10


def _initialise(weight: Tensor, scale: float = 1.0) -> None:
    """Uniform with variance 2 scale / (fan in + fan out)."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(scale))


def _conv(channels_in: int, channels_out: int, side: int = 3, scale: float = 1.0) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, side, padding=side // 2)
    _initialise(conv.weight, scale)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv


def _linear(channels_in: int, channels_out: int) -> Linear:
    linear = Linear(channels_in, channels_out)
    _initialise(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def _sum(x: Tensor, y: Tensor) -> Tensor:
    """A sum of independent terms that keeps their variance."""
    return (x + y) * math.sqrt(0.5)


class _Dropout(nn.Dropout):
    """Dropout; a CPU draws random numbers one by one, so there four sites share 64 bits."""

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(2**16 * self.p)
        if x.device.type != "cpu" or not (self.training and 0 < dropped < 2**16):
            return super().forward(x)
        bits = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), device=x.device)
        kept = (bits.view(torch.int16) >= dropped - 2**15).as_strided(x.shape, x.stride())
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class _FIR(nn.Module):
    """Depthwise convolutions with [1, 3, 3, 1] along each axis, normalised to unit sum."""

    def __init__(self, channels: int):
        super().__init__()
        k = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.kernel: Tensor
        self.register_buffer("kernel", k.outer(k).repeat(channels, 1, 1, 1), persistent=False)

    def blur(self, x: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, self.kernel, stride=stride, padding=padding, groups=x.shape[1])


class _Down(_FIR):
    def forward(self, x: Tensor) -> Tensor:
        return self.blur(x, stride=2, padding=1)


class _Up(_FIR):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 4 * self.kernel, stride=2, padding=1, groups=x.shape[1])


class _PyramidDown(_FIR):
    """A blur and a 3 x 3 convolution with stride 2; one padding serves both."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in)
        self.Conv2d_0 = nn.Conv2d(channels_in, channels_out, 3, stride=2)
        _initialise(self.Conv2d_0.weight)
        nn.init.zeros_(cast(Tensor, self.Conv2d_0.bias))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.Conv2d_0(self.blur(x, stride=1, padding=2)))


class _Block(nn.Module):
    """Residual block of BigGAN; resample makes R from the channels of x."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        resample: Callable[[int], nn.Module] = nn.Identity,
        *,
        embedding: int,
        dropout: float,
    ):
        super().__init__()
        self.resample = resample(channels_in)
        self.GroupNorm_0 = _norm(channels_in)
        self.Conv_0 = _conv(channels_in, channels_out)
        self.Dense_0 = _linear(embedding, channels_out)
        self.GroupNorm_1 = _norm(channels_out)
        self.Dropout_0 = _Dropout(dropout)
        self.Conv_1 = _conv(channels_out, channels_out, scale=_TINY)
        self.Conv_2: nn.Module = nn.Identity()
        if channels_in != channels_out or resample is not nn.Identity:
            self.Conv_2 = _conv(channels_in, channels_out, side=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h: Tensor = self.Conv_0(self.resample(F.silu(self.GroupNorm_0(x))))
        h = h + self.Dense_0(e)[:, :, None, None]
        h = self.Dropout_0(F.silu(self.GroupNorm_1(h)))
        return _sum(self.Conv_2(self.resample(x)), self.Conv_1(h))


class _NIN(nn.Module):
    """Linear map of the last axis whose weight is (in, out)."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))
        _initialise(self.W, scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W.T, self.b)


class _Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0 = _NIN(channels, 0.1)
        self.NIN_1 = _NIN(channels, 0.1)
        self.NIN_2 = _NIN(channels, 0.1)
        self.NIN_3 = _NIN(channels, _TINY)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x).permute(0, 2, 3, 1).flatten(1, 2)[:, None]
        h = self.NIN_3(F.scaled_dot_product_attention(self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)))
        return _sum(x, h[:, 0].unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2))


class NCSNpp(nn.Module):
    """Fields (B, C, N, N) and steps n (B,) to fields (B, C, N, N).

    Args:
        size: the N that ``attention`` is laid out for.
        channels: channels of the finest level for a multiplier of one.
        multipliers: of ``channels`` at each level, finest first; each level halves the side.
        blocks: residual blocks of each level on the way down; one more on the way up.
        attention: sides of the levels that attend.
        dropout: probability.
        field_channels: C.
        conditioning: channels that the input has in addition, for conditional models.

    N must be a multiple of ``multiple``.

    Raises:
        InputError: ``size`` is not a multiple of ``multiple``.
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
        conditioning: int = 0,
    ):
        super().__init__()
        self.multiple = 2 ** (len(multipliers) - 1)
        self._check(size, size)
        self.blocks = blocks
        self.attends = [size // 2**level in attention for level in range(len(multipliers))]
        self.frequencies: Tensor
        half = channels // 2
        # rounded as in the public code: at n = 1000 its single precision is seen in the fifth digit
        w = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        self.register_buffer("frequencies", w, persistent=False)

        block = partial(_Block, embedding=4 * channels, dropout=dropout)
        modules: list[nn.Module] = [
            _linear(channels, 4 * channels),
            _linear(4 * channels, 4 * channels),
            _conv(field_channels + conditioning, channels),
        ]
        widths = [channels * multiplier for multiplier in multipliers]
        skips = [channels]
        pyramid = field_channels + conditioning
        for level, width in enumerate(widths):
            for _ in range(blocks):
                modules.append(block(skips[-1], width))
                if self.attends[level]:
                    modules.append(_Attention(width))
                skips.append(width)
            if level < len(widths) - 1:
                modules += [block(width, width, _Down), _PyramidDown(pyramid, width)]
                skips.append(width)
                pyramid = width
        below = skips[-1]
        modules += [block(below, below), _Attention(below), block(below, below)]
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                modules.append(block(below + skips.pop(), widths[level]))
                below = widths[level]
            if self.attends[level]:
                modules.append(_Attention(below))
            if level:
                modules.append(block(below, below, _Up))
        modules += [_norm(below), _conv(below, field_channels, scale=_TINY)]
        self.all_modules = nn.ModuleList(modules)

    def _check(self, *sides: int) -> None:
        if any(side % self.multiple for side in sides):
            raise InputError(
                f"the network takes sides that are multiples of {self.multiple}, got "
                f"{' x '.join(map(str, sides))}"
            )

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        """Fields of the same shape; steps need not be whole numbers.

        Raises:
            InputError: the side is not a multiple of ``multiple``.
        """
        self._check(*x.shape[-2:])
        part = iter(self.all_modules)
        phase = n.float()[:, None] * self.frequencies
        e = next(part)(torch.cat([phase.sin(), phase.cos()], dim=1))
        e = F.silu(next(part)(F.silu(e)))
        skips = [next(part)(x)]
        for level, attends in enumerate(self.attends):
            for _ in range(self.blocks):
                h = next(part)(skips[-1], e)
                skips.append(next(part)(h) if attends else h)
            if level < len(self.attends) - 1:
                h = next(part)(skips[-1], e)
                x = _sum(h, next(part)(x))
                skips.append(x)
        h = next(part)(skips[-1], e)
        h = next(part)(h)
        h = next(part)(h, e)
        for level, attends in reversed(list(enumerate(self.attends))):
            for _ in range(self.blocks + 1):
                h = next(part)(torch.cat([h, skips.pop()], dim=1), e)
            if attends:
                h = next(part)(h)
            if level:
                h = next(part)(h, e)
        h = F.silu(next(part)(h))
        return cast(Tensor, next(part)(h))
