"""SKILD: one model for generation, and for super-resolution from any scale (arXiv 2605.26032)."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from skild_physics.diffusion.adaptive import adaptive_denoiser
from skild_physics.diffusion.observation import observed
from skild_physics.diffusion.prediction import Denoiser, Network, denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import (
    critical_denoiser,
    critical_process,
    rescaled,
)
from skild_physics.diffusion.reverse import Start, diffused, prior
from skild_physics.fields.downsampling import DOWNSAMPLINGS, Downsampling
from skild_physics.files import InputError
from skild_physics.models.base import Model
from skild_physics.models.objective import Loss, Objective, SkildObjective, squared_error

NEGLIGIBLE_SNR = 1e-4
"""Signal-to-noise ratio of modes that a network shown all modes can do without."""


@dataclass(frozen=True, eq=False, repr=False)
class Skild(Model):
    """A SKILD model.

    Attributes:
        snr_threshold: show the network only modes of a larger signal-to-noise ratio, on a smaller
            lattice; 0: all modes; None: as it was trained.
    """

    _: KW_ONLY
    snr_threshold: float | None = None

    name: ClassVar[str] = "a SKILD model"

    def __post_init__(self) -> None:
        if self.snr_threshold and self.config.process.is_white:
            raise InputError(
                "`snr_threshold` is for active modes, which this model does not have: its process "
                "attenuates all modes alike"
            )

    @property
    def threshold(self) -> float:
        """The signal-to-noise ratio of active modes; 0: all modes are."""
        trained = self.config.training.snr_threshold
        return (trained if self.snr_threshold is None else self.snr_threshold) or 0.0

    def about(self) -> dict[str, Any]:
        """See :meth:`Model.about`."""
        return {"snr_threshold": None if self.config.process.is_white else self.threshold}

    @property
    def left(self) -> float:
        """Effective resolution at the end of the schedule, in pixels per side; 0: no mode is."""
        return float(self.process.resolution(self.process.T, self.snr))

    @property
    def ends_in_noise(self) -> bool:
        """Whether the schedule destroys everything, so that it can generate.

        A mode of signal-to-noise ratio r at the end of the schedule holds ln(1 + r) / 2 nats of a
        Gaussian x_0, which samples that start from noise alone lack. It may be as large as what
        counts as resolved, ``process.snr``, and no larger, in any mode: where k_c is large it is
        k_c that decides, and not the cutoff of the schedule.
        """
        return float(self.process.largest_snr(self.process.T)) <= self.snr

    def of_active_modes(self, N: int) -> Network:
        """The network for active modes of N x N fields, on lattices of any side up to N."""
        return self.output

    def denoiser(self, process: Process | None = None) -> Denoiser:
        """The estimate of x_0, for the model's process or that of fields of another size."""
        training, process = self.config.training, process or self.process
        if not self.threshold:
            return denoiser(self.output, process, training.prediction)
        # lattices of active modes of the same spacing as in training
        multiple = training.active_multiple_of(self.process.N) * process.N // self.process.N
        if process.N % max(multiple, 1) or multiple % self.multiple:
            multiple = self.multiple
        network = self.of_active_modes(process.N)
        return adaptive_denoiser(network, process, training.prediction, self.threshold, multiple)

    def critical(self, L: int) -> tuple[Process, Denoiser]:
        """The process and the estimate of x_0 of critical fields of another size.

        See :mod:`skild_physics.diffusion.renormalization`.

        Args:
            L: side of the lattice, at least that of the model.

        Raises:
            InputError: as :func:`skild_physics.diffusion.renormalization.critical_process`.
        """
        process = critical_process(self.process, L)
        if self.process.N == L:
            return process, self.denoiser(process)
        sides = [self.process.N]
        while 2 * sides[-1] < L:
            sides.append(2 * sides[-1])
        smaller = [critical_process(self.process, side) for side in sides]
        levels = [(each, self.denoiser(each)) for each in (*smaller, process)]
        return process, critical_denoiser(levels, self.threshold or NEGLIGIBLE_SNR)

    def prior(self, L: int) -> Start:
        """See :meth:`Model.prior`."""
        if not self.ends_in_noise:
            most = float(self.process.largest_snr(self.process.T))
            stuck = f"with a signal-to-noise ratio of {most:.3g}, where {self.snr:g} is resolved"
            if self.process.frozen.any():
                stuck = "and never changes the zero mode (k_c = 0)"
            raise InputError(
                f"the schedule of this model ends at an effective resolution of {self.left:.3g} "
                f"pixels {stuck}, so there is something left to start from: use super_resolve"
            )
        if self.size == L:
            return prior(self.process, self.denoiser())
        is_ising = self.channels == ("spin",)
        if not is_ising or L % self.multiple:
            raise InputError(
                f"`L`: this model makes fields of {self.size} x {self.size}"
                + (f" or multiples of {self.multiple}" if is_ising else "")
                + f", got {L}"
            )
        return prior(*self.critical(L))

    def diffused(self, M: int, factor: float) -> Start:
        """See :meth:`Model.diffused`."""
        process = self.process.resized(self.side(M, 1))
        return diffused(process, self.denoiser(process), factor, self.snr)

    def observed(self, M: int, factor: float, kernel: Downsampling | None) -> Start:
        """See :meth:`Model.observed`."""
        if kernel not in DOWNSAMPLINGS:
            raise InputError(
                "the input does not say how it was coarse-grained: pass `kernel`, one of "
                f"{', '.join(DOWNSAMPLINGS)}"
            )
        N, size = self.lattice(M, factor)
        process = self.process.resized(N)
        return observed(process, self.denoiser(process), M, kernel, self.snr, size)

    def lattice(self, M: int, factor: float) -> tuple[int, int]:
        """Sides of the lattice that coarse M x M fields are enlarged on, and of the results.

        Pictures may have any size: they are made on a lattice that the network takes, and lose its
        last modes.
        """
        if self.basis == "periodic":
            N = self.side(M, factor)
            return N, N
        size = round(M * factor)
        return -(-size // self.multiple) * self.multiple, size

    def rescaled(self, M: int, factor: float, keep: float) -> Start:
        """See :meth:`Model.rescaled`."""
        process, denoise = self.critical(self.side(M, factor))
        own = critical_process(self.process, M)
        return rescaled(process, denoise, own, keep * M, self.snr)

    def objective(self, loss: Loss = squared_error) -> Objective:
        """See :meth:`Model.objective`."""
        return SkildObjective(self.process, self.config.training, loss=loss)

    def preview_start(self) -> Start:
        """See :meth:`Model.preview_start`."""
        if self.ends_in_noise:
            return self.prior(self.size)
        return self.diffused(self.size, max(1.0, self.size / self.left * (1 - 1e-9)))
