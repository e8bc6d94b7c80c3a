"""The U-Net of guided diffusion (arXiv 2105.05233), and Flexi-UNet made of it (arXiv 2603.08709).

Weights are named as in the public code of both, whose tensors fit. A residual block maps x to

    S x + W2 drop silu(norm(W1 silu(norm(x))) (1 + a) + b),    (a, b) = D silu(e)

with 3 x 3 convolutions W1 and W2, a 1 x 1 convolution or nothing S, and group normalisation of 32
groups; e is the embedding of the step. Attention of several heads adds to its input. Levels are
joined by convolutions with stride 2 on the way down and by convolutions of the repeated pixels on
the way up, where every block takes a skip connection. Fields continue as zero beyond their borders.

In Flexi-UNet the levels belong to resolutions: see :mod:`skild_physics.networks.flexi`, of which
this is the published form. Here a 1 x 1 convolution takes the channels of the stem to those that
the first block of a level wants, wherever they differ, and another one those of the last block to
the head's. On the way up the last block of the level that fields leave at is not run, not even at
full size. To raise the resolution, zeros take the place of the skip connections that are missing,
but to raise it to full size the field is interpolated and takes the whole way.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_physics.files import InputError
from skild_physics.networks.rows import Linear
from skild_physics.networks.unet import check_sides

GROUPS = 32


def _zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """A convolution that ends a residual branch, which begins at zero."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(cast(Tensor, module.bias))
    return module


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), _conv(channels_in, channels_out)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embedding, 2 * channels_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_out),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(_conv(channels_out, channels_out)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip_connection = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.emb_layers(e)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(self.in_layers(x)) * (1 + scale) + shift
        for layer in rest:
            h = layer(h)
        return cast(Tensor, self.skip_connection(x) + h)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flat = x.flatten(2)
        # each head has its queries, keys and values side by side
        heads = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)
        h = F.scaled_dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        h = self.proj_out(h.transpose(-1, -2).flatten(1, 2))
        return cast(Tensor, flat + h).view_as(x)


class _Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = _conv(channels, channels, stride=2)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return cast(Tensor, self.op(x))


class _Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2, mode="nearest")))


class _Row(nn.ModuleList):
    """Parts one after another, all of which are shown the embedding."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        for part in self:
            x = part(x, e)
        return x


class _Stem(nn.Conv2d):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        return super().forward(x)


class GuidedUNet(nn.Module):
    """Fields (B, C, M, M) and steps n >= 1 (B,) to fields (B, C, side, side).

    Args:
        size: side N of the fields that the finest level is for.
        channels: channels of the finest level for a multiplier of one, a multiple of 32.
        multipliers: of ``channels`` at each level, finest first; each level halves the side.
        blocks: residual blocks of each level on the way down; one more on the way up.
        attention: sides of the levels that attend, of fields N x N.
        heads: of the attention.
        dropout: probability.
        field_channels: C.
        flexi: Flexi-UNet; if not, the plain network, which takes fields of full size only.

    Raises:
        InputError: channels that 32 groups or the heads do not divide, or a size that is not a
            multiple of ``multiple``.
    """

    def __init__(
        self,
        size: int,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: tuple[int, ...] = (16, 8),
        heads: int = 4,
        dropout: float = 0.0,
        field_channels: int = 3,
        flexi: bool = True,
    ):
        super().__init__()
        self.multiple = 2 ** (len(multipliers) - 1)
        if channels % GROUPS or channels % heads or size % self.multiple:
            raise InputError(
                f"channels must be a multiple of {GROUPS} and of the {heads} heads, and the size "
                f"one of {self.multiple}, got {channels} and {size}"
            )
        self.size, self.blocks, self.flexi, self.depth = size, blocks, flexi, len(multipliers)
        embedding, half = 4 * channels, channels // 2
        self.frequencies: Tensor
        # rounded as in the public code
        w = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", w, persistent=False)
        self.time_embed = nn.Sequential(
            Linear(channels, embedding), nn.SiLU(), Linear(embedding, embedding)
        )

        def row(channels_in: int, channels_out: int, level: int) -> _Row:
            parts: list[nn.Module] = [_Block(channels_in, channels_out, embedding, dropout)]
            if size // 2**level in attention:
                parts.append(_Attention(channels_out, heads))
            return _Row(parts)

        widths = [channels * multiplier for multiplier in multipliers]
        self.input_blocks = nn.ModuleList([_Row([_Stem(field_channels, widths[0])])])
        skips, entering = [widths[0]], []
        for level, width in enumerate(widths):
            entering.append(skips[-1])
            for _ in range(blocks):
                self.input_blocks.append(row(skips[-1], width, level))
                skips.append(width)
            if level < self.depth - 1:
                self.input_blocks.append(_Row([_Down(width)]))
                skips.append(width)
        below = widths[-1]
        self.middle_block = _Row(
            [
                _Block(below, below, embedding, dropout),
                _Attention(below, heads),
                _Block(below, below, embedding, dropout),
            ]
        )
        self.output_blocks = nn.ModuleList()
        self.missing = tuple(reversed(skips))
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                self.output_blocks.append(row(below + skips.pop(), width, level))
                below = width
                if level and i == blocks:
                    cast(_Row, self.output_blocks[-1]).append(_Up(width))
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, below), nn.SiLU(), _zeroed(_conv(below, field_channels))
        )
        if flexi:
            self.adapters_in = self._adapters(entering, widths[0], inwards=True)
            self.adapters_out = self._adapters(widths, widths[0], inwards=False)

    def _adapters(self, widths: list[int], own: int, inwards: bool) -> nn.ModuleDict:
        """1 x 1 convolutions by the side of a level; levels of equal width share one."""
        made: dict[int, nn.Module] = {}
        for width in dict.fromkeys(width for width in widths[1:] if width != own):
            made[width] = nn.Conv2d(*((own, width) if inwards else (width, own)), 1)
        sides = {str(self.size // 2**level): width for level, width in enumerate(widths) if level}
        return nn.ModuleDict({side: made[w] for side, w in sides.items() if w in made})

    def entry(self, side: int) -> int:
        """The level that a field of this side enters at: the coarsest whose own side holds it."""
        level = 0
        while level < self.depth - 1 and side * 2 ** (level + 1) <= self.size:
            level += 1
        return level

    def forward(self, x: Tensor, n: Tensor, side: int | None = None) -> Tensor:
        """Fields of the same side, or of ``side``, which is larger.

        Raises:
            InputError: the network does not take this side, or cannot raise it so.
        """
        M = x.shape[-1]
        side = M if side is None else side
        if side < M or side > self.size or (side != M and not self.flexi):
            raise InputError(f"the network cannot take {M} x {M} fields to {side} x {side}")
        if side == self.size:
            x, M = _resized(x, side), side
        entry, end = (self.entry(each) if self.flexi else 0 for each in (M, side))
        check_sides(x, 2 ** (self.depth - 1 - entry))
        # the published code counts steps from zero
        phase = (n.float() - 1)[:, None] * self.frequencies
        e = self.time_embed(torch.cat([phase.cos(), phase.sin()], dim=1))
        h = self._adapted("adapters_in", entry, self.input_blocks[0](x, e))
        skips = [h]
        for part in self.input_blocks[1 + entry * (self.blocks + 1) :]:
            h = part(h, e)
            skips.append(h)
        h = self.middle_block(h, e)
        last = len(self.output_blocks) - end * (self.blocks + 1) - self.flexi
        for i, part in enumerate(self.output_blocks[:last]):
            # what enters the stem is no skip of a level to be raised
            has_skip = len(skips) > 1 or entry == end
            skip = skips.pop() if has_skip else h.new_zeros(len(h), self.missing[i], *h.shape[-2:])
            h = part(torch.cat([h, skip], dim=1), e)
        return _resized(cast(Tensor, self.out(self._adapted("adapters_out", end, h))), side)

    def _adapted(self, which: str, level: int, h: Tensor) -> Tensor:
        key = str(self.size // 2**level)
        if not self.flexi or key not in getattr(self, which):
            return h
        return cast(Tensor, getattr(self, which)[key](h))


def _resized(x: Tensor, side: int) -> Tensor:
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
