"""A compact U-Net for fields of any size that trains on two CPU cores.

Residual blocks x + W2 act(g(lambda) norm(W1 act(norm(x)))) with 3 x 3 convolutions, norm dividing
each site by its root mean square over channels (no statistics across sites, so nothing couples
distant sites but the convolutions), and a gain g per channel computed from the logarithm of lambda
in square pixels. Levels are joined by strided convolutions down and pixel shuffles up.

Beyond its edges a field goes on as its basis does: the periodic basis around the torus, the cosine
basis, whose waves are even about the edges, in the mirror (half-sample symmetric: the outermost
site is repeated).
"""

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.networks.rows import Linear

LAMBDA_FLOOR = 1e-6


def _extended(x: Tensor, basis: Basis, width: int = 1) -> Tensor:
    """More sites on every side; slices fuse with neighbouring pointwise work."""
    for dim in (-1, -2):
        first, last = x.narrow(dim, 0, width), x.narrow(dim, x.shape[dim] - width, width)
        if basis == "cosine":
            first, last = last.flip(dim), first.flip(dim)
        x = torch.cat([last, x, first], dim=dim)
    return x


def _norm(x: Tensor) -> Tensor:
    """Unit root mean square over channels at every site."""
    return x * torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + 1e-4).to(x.dtype)


class _Conv(nn.Conv2d):
    """3 x 3 convolution of a field that goes on beyond its edges."""

    def __init__(self, channels_in: int, channels_out: int, basis: Basis):
        super().__init__(channels_in, channels_out, 3)
        self.basis = basis

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_extended(x, self.basis))


class _Block(nn.Module):
    def __init__(self, channels: int, embedding: int, basis: Basis):
        super().__init__()
        self.first = _Conv(channels, channels, basis)
        self.second = _Conv(channels, channels, basis)
        self.gain = Linear(embedding, channels)
        for parameter in (self.second.weight, self.gain.weight, self.gain.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h: Tensor = self.first(F.silu(_norm(x)))
        h = _norm(h) * (1 + self.gain(e))[:, :, None, None]
        return x + cast(Tensor, self.second(F.silu(h)))


class _Level(nn.ModuleList):
    """Residual blocks in a row."""

    def __init__(self, channels: int, blocks: int, embedding: int, basis: Basis):
        super().__init__(_Block(channels, embedding, basis) for _ in range(blocks))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        for block in self:
            x = block(x, e)
        return x


class CompactUNet(nn.Module):
    """Fields (B, C, N, N) and lambda N^2 (B,), in square pixels, to fields (B, C, N, N).

    Args:
        channels: channels of each level, finest first; each level halves the side.
        blocks: residual blocks of each level, on the way down and again on the way up.
        patch: side of the pixel patches that the finest level works on.
        embedding: width of the embedding of log lambda.
        field_channels: C.
        basis: how fields go on beyond their edges.
        conditioning: channels that the input has in addition, for conditional models.
        labels: how many of these, the last ones, are constant over a field; they act on the gains,
            as lambda does.

    N must be a multiple of ``multiple``.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (48, 64),
        blocks: tuple[int, ...] = (2, 2),
        patch: int = 2,
        embedding: int = 64,
        field_channels: int = 1,
        basis: Basis = "periodic",
        conditioning: int = 0,
        labels: int = 0,
    ):
        super().__init__()
        self.patch, self.labels = patch, labels
        self.multiple = patch * 2 ** (len(channels) - 1)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.linspace(0.2, 3.0, 8), persistent=False)
        self.embed = nn.Sequential(
            Linear(16 + labels, embedding), nn.SiLU(), Linear(embedding, embedding), nn.SiLU()
        )
        self.basis = basis
        seen = field_channels + conditioning - labels
        self.stem = nn.Conv2d(seen * patch**2, channels[0], 3)
        self.down = nn.ModuleList(
            _Level(c, b, embedding, basis) for c, b in zip(channels, blocks, strict=True)
        )
        self.up = nn.ModuleList(
            _Level(c, b, embedding, basis) for c, b in zip(channels[:-1], blocks[:-1], strict=True)
        )
        pairs = list(pairwise(channels))
        self.coarsen = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.refine = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        self.gain = Linear(embedding, channels[0])
        self.head = _Conv(channels[0], field_channels * patch**2, basis)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        """Fields of the same shape; lambda N^2 enters through sines and cosines of its logarithm.

        Raises:
            InputError: the side is not a multiple of ``multiple``.
        """
        check_sides(x, self.multiple)
        seen = x.shape[1] - self.labels
        e = self.embedded(lam, x[:, seen:, 0, 0])
        return self.read(self.through(self.patches(x[:, :seen]), e, 0, 0), e)

    def embedded(self, lam: Tensor, labels: Tensor | None = None) -> Tensor:
        """lambda N^2 (B,) and labels (B, L) for the blocks, shape (B, embedding)."""
        phase = torch.log10(lam.clamp(min=LAMBDA_FLOOR))[:, None] * self.frequencies
        known = [phase.sin(), phase.cos()] + ([] if labels is None else [labels.to(phase)])
        e: Tensor = self.embed(torch.cat(known, dim=1))
        return e

    def patches(self, x: Tensor) -> Tensor:
        """The stem: fields to the channels of their patches."""
        # in pixels, because a mirrored patch has its pixels in mirrored order
        wide = _extended(x, self.basis, self.patch)
        return cast(Tensor, self.stem(F.pixel_unshuffle(wide, self.patch)))

    def through(self, h: Tensor, e: Tensor, entry: int, end: int) -> Tensor:
        """Down from the level ``entry`` to the coarsest, and up to ``end``; both 0: all of it.

        Above ``entry`` there are no skips to add.
        """
        skips = []
        for level, coarsen in zip(self.down[entry:-1], self.coarsen[entry:], strict=True):
            h = level(h, e)
            skips.append(h)
            h = coarsen(h)
        h = self.down[-1](h, e)
        for level, refine in zip(reversed(self.up[end:]), reversed(self.refine[end:]), strict=True):
            h = F.pixel_shuffle(refine(h), 2)
            h = level(h + skips.pop() if skips else h, e)
        return h

    def read(self, h: Tensor, e: Tensor) -> Tensor:
        """The head: channels of patches to fields."""
        h = self.head(_norm(h) * (1 + self.gain(e))[:, :, None, None])
        return F.pixel_shuffle(h, self.patch)


def check_sides(x: Tensor, multiple: int) -> None:
    """Raise InputError unless the sides of fields are multiples of a number."""
    if x.shape[-1] % multiple or x.shape[-2] % multiple:
        raise InputError(
            f"the network takes sides that are multiples of {multiple}, got "
            f"{x.shape[-2]} x {x.shape[-1]}"
        )
