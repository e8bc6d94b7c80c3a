"""Flexi-UNet: a U-Net that uses only the levels that a field needs (arXiv 2603.08709).

The levels of the network belong to resolutions: that of N x N fields, N/2 x N/2, and so on. A
field of side N/2^l skips the first l levels: a 1 x 1 convolution takes the channels of the stem,
which all sides share, to those of level l; it goes down and up again, and another 1 x 1 convolution
takes it to the head, which all sides share. To raise the resolution the way up goes further than
the way down began; where no skip connection comes from, nothing is added.

    side of the field    N        N/2      N/4          N/2 -> N
                         stem     stem     stem         stem
    N                    | |                              |
    N/2                  | |      | |                   | |
    N/4                  |_|      |_|      |_|          |_|
                         head     head     head         head

The blocks are those of the compact U-Net.
"""

from torch import Tensor, nn

from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.networks.unet import CompactUNet, check_sides


class FlexiUNet(CompactUNet):
    """Fields (B, C, M, M) and lambda M^2 (B,), in square pixels, to fields (B, C, side, side).

    Args:
        size: side N of the fields that the finest level is for.
        channels: channels of each level, finest first; each level halves the side.
        blocks: residual blocks of each level, on the way down and again on the way up.
        patch: side of the pixel patches that the network works on, at every side alike.
        embedding: width of the embedding of log lambda.
        field_channels: C.
        basis: how fields go on beyond their edges.
        conditioning: channels that the input has in addition, for conditional models.
    """

    def __init__(
        self,
        size: int,
        channels: tuple[int, ...] = (48, 64, 64, 64),
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        patch: int = 2,
        embedding: int = 64,
        field_channels: int = 1,
        basis: Basis = "periodic",
        conditioning: int = 0,
    ):
        super().__init__(channels, blocks, patch, embedding, field_channels, basis, conditioning)
        self.size = size
        first = channels[0]
        self.enter = nn.ModuleList(nn.Conv2d(first, c, 1) for c in channels[1:])
        self.leave = nn.ModuleList(nn.Conv2d(c, first, 1) for c in channels[1:])

    def entry(self, side: int) -> int:
        """The level that a field of this side enters at: the coarsest whose own side holds it."""
        level = 0
        while level < len(self.down) - 1 and side * 2 ** (level + 1) <= self.size:
            level += 1
        return level

    def forward(self, x: Tensor, lam: Tensor, side: int | None = None) -> Tensor:
        """Fields of the same side, or of ``side``, which is larger by a power of two.

        Raises:
            InputError: the network does not take this side, or cannot raise it so far.
        """
        M = x.shape[-1]
        entry = self.entry(M)
        check_sides(x, self.patch * 2 ** (len(self.down) - 1 - entry))
        end, reached = entry, M
        while side is not None and reached < side and end:
            end, reached = end - 1, 2 * reached
        if side not in (None, reached):
            raise InputError(f"the network cannot take {M} x {M} fields to {side} x {side}")
        e = self.embedded(lam)
        h = self.patches(x)
        if entry:
            h = self.enter[entry - 1](h)
        h = self.through(h, e, entry, end)
        if end:
            h = self.leave[end - 1](h)
        return self.read(h, e)
