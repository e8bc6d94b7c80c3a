"""Lattices for models of pictures, as the published model of critical lattices is one.

It was trained (arXiv 2605.26032) on lattices saved as pictures of red, green and blue: three equal
channels, with one pixel for each spin. What it makes has three channels with noise of their own,
which agree but for its error. Around such a model

    pixel = (down + up)/2 + (up - down)/2 spin     in each of three channels on the way in,
    spin  = the inverse of their mean              on the way out,

also for fields between the spins, as coarse ones.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.reverse import Start
from skild_physics.diffusion.sampler import Sampler

CHANNELS = 3


@dataclass(frozen=True)
class SpinPictures:
    """Pictures of lattices.

    Attributes:
        down: pixel of a spin -1.
        up: pixel of a spin +1.
    """

    down: float
    up: float

    @property
    def scale(self) -> float:
        """Of pixels over spins."""
        return (self.up - self.down) / 2

    @property
    def shift(self) -> float:
        """The pixel of a zero."""
        return (self.up + self.down) / 2

    def of(self, fields: Tensor) -> Tensor:
        """Pictures (B, 3, M, M) of lattices (B, 1, M, M)."""
        return (self.shift + self.scale * fields.float()).expand(-1, CHANNELS, -1, -1)

    def lattices(self, pictures: Tensor) -> Tensor:
        """Lattices (B, 1, M, M) of pictures (B, 3, M, M)."""
        return (pictures.mean(dim=1, keepdim=True) - self.shift) / self.scale

    def start(self, start: Start) -> Start:
        """A start from pictures as one from lattices, which makes lattices."""

        def draw(given: Tensor, noise: Noise) -> tuple[Tensor, Denoiser]:
            return start.draw(self.of(given), noise)

        expected = None if start.expected is None else start.expected / self.scale**2
        return SpinStart(
            start.process,
            start.n,
            start.resolution,
            draw,
            start.snr,
            start.residual,
            expected,
            pictures=self,
            inner=start,
        )

    def __str__(self) -> str:
        return f"mean of three channels, pixels {self.down:g} and {self.up:g}"


@dataclass(frozen=True, eq=False)
class SpinStart(Start):
    """A start of a model of pictures for lattices; a state is shown as the mean of its channels."""

    _: KW_ONLY
    pictures: SpinPictures
    inner: Start

    @property
    def size(self) -> int:
        """Side of the fields made."""
        return self.inner.size

    def shown(self, x: Tensor, given: Tensor) -> Tensor:
        """See :meth:`Start.shown`."""
        return self.pictures.lattices(self.inner.shown(x, self.pictures.of(given)))

    def check_states(self) -> None:
        """See :meth:`Start.check_states`."""
        self.inner.check_states()

    def state(self, fields: Tensor, drawn: Tensor) -> Tensor:
        """See :meth:`Start.state`; of lattices, how channels differ from their mean is as drawn."""
        if fields.shape[1] == CHANNELS:
            return self.inner.state(fields, drawn)
        channels = self.inner.shown(drawn, torch.empty(0)).to(fields)
        away = channels - channels.mean(dim=1, keepdim=True)
        return self.inner.state(self.pictures.of(fields) + away, drawn)

    def reverse(self, x: Tensor, denoise: Denoiser, sampler: Sampler, noise: Noise) -> Tensor:
        """See :meth:`Start.reverse`."""
        return self.pictures.lattices(self.inner.reverse(x, denoise, sampler, noise))

    def finished(self, fields: Tensor, given: Tensor) -> Tensor:
        """See :meth:`Start.finished`."""
        return self.inner.finished(fields, given)
