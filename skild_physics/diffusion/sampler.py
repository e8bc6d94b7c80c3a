"""How to go from the start of the reverse process to x_0: samplers as small frozen callables.

    Multistep   deterministic, an exponential integrator of several estimates
    Stochastic  the same with noise, the reversed SDE
    Ancestral   the paper's, which wants hundreds of evaluations

See :mod:`skild_physics.diffusion.integrators` for the mathematics. A sampler holds its own knobs
only; seeds, batches and outputs belong to the call that uses it.
"""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from skild_physics.diffusion.integrators import (
    SPACINGS,
    Spacing,
    ancestral,
    default_last_snr,
    multistep,
    step_grid,
)
from skild_physics.diffusion.noise import Noise
from skild_physics.diffusion.prediction import Denoiser
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError, check_none_given


@dataclass(frozen=True)
class Sampler:
    """A way from the modes x_n at a step n to x_0.

    Attributes:
        n_evals: evaluations of the network per field.
        spacing: what the steps are evenly spaced in, "time", "resolution" or "log-resolution"; see
            :func:`skild_physics.diffusion.integrators.step_grid`.
        last_snr: signal-to-noise ratio of the finest mode at the last evaluation, which returns a
            mean: raise it (and n_evals) for fields of Gaussian detail, whose variance a mean lacks.
            None: n_evals / 4.

    Raises:
        InputError: a value out of range, or a last_snr where steps are spaced in time.
    """

    n_evals: int
    spacing: Spacing = "log-resolution"
    last_snr: float | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.n_evals < 1:
            raise InputError(f"`n_evals` must be at least 1, got {self.n_evals}")
        if self.spacing not in SPACINGS:
            raise InputError(f"`spacing` must be one of {SPACINGS}, got {self.spacing!r}")
        if not self.ends_at_snr:
            whose = "goes with several `n_evals`, and not with `spacing=time`"
            check_none_given({"last_snr": self.last_snr}, whose)
        if not 0 < self.ends_at < float("inf"):
            raise InputError(f"`last_snr` must be positive and finite, got {self.last_snr}")

    @property
    def ends_at_snr(self) -> bool:
        """Whether a signal-to-noise ratio sets the step of the last evaluation."""
        return self.spacing != "time" and self.n_evals > 1

    @property
    def ends_at(self) -> float:
        """The signal-to-noise ratio of the last evaluation, where it is none's choice, too."""
        return default_last_snr(self.n_evals) if self.last_snr is None else self.last_snr

    @abstractmethod
    def integrate(
        self, process: Process, denoise: Denoiser, x: Tensor, steps: Tensor, noise: Noise
    ) -> Tensor:
        """Modes at steps[-1] from modes x (B, C, N, N) at steps[0], along descending steps."""

    def __call__(
        self, process: Process, denoise: Denoiser, x: Tensor, n: float, noise: Noise
    ) -> Tensor:
        """Modes x_0 from modes x (B, C, N, N) at step n.

        Args:
            process: to reverse.
            denoise: the estimate of x_0.
            x: modes at step n.
            n: step in (0, T].
            noise: source of all draws.

        Raises:
            InputError: a step or a last_snr out of range.
        """
        steps = step_grid(process, n, self.n_evals, self.spacing, self.last_snr)
        return self.integrate(process, denoise, x, steps, noise)

    def describe(self) -> dict[str, Any]:
        """How fields were sampled, for their file; None stands for what does not apply."""
        return {
            "sampler": self.name,
            "n_evals": self.n_evals,
            "order": None,
            "spacing": self.spacing,
            "last_snr": self.ends_at if self.ends_at_snr else None,
        }


@dataclass(frozen=True)
class Multistep(Sampler):
    """The probability flow, with estimates of earlier steps used again; deterministic.

    Attributes:
        order: estimates that a step uses: 1, 2 or 3.

    >>> import skild_physics as sk
    >>> sk.Multistep(n_evals=10).ends_at
    2.5
    """

    n_evals: int = 20
    order: int = 2

    name: ClassVar[str] = "multistep"

    @property
    def noise_level(self) -> float:
        """Stochasticity of the reversed process: 0 is the flow, 1 the reversed SDE."""
        return 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise InputError(f"`order` must be 1, 2 or 3, got {self.order}")

    def integrate(
        self, process: Process, denoise: Denoiser, x: Tensor, steps: Tensor, noise: Noise
    ) -> Tensor:
        """See :meth:`Sampler.integrate`."""
        return multistep(process, denoise, x, steps, self.order, self.noise_level, noise)

    def describe(self) -> dict[str, Any]:
        """See :meth:`Sampler.describe`."""
        return super().describe() | {"order": self.order}


@dataclass(frozen=True)
class Stochastic(Multistep):
    """The reversed SDE: noise corrects errors of the estimate, which the flow keeps.

    Attributes:
        stochasticity: 0 is the probability flow, 1 the reversed SDE.

    >>> import skild_physics as sk
    >>> sk.Stochastic(n_evals=40).stochasticity
    1.0
    """

    stochasticity: float = 1.0

    name: ClassVar[str] = "stochastic"

    @property
    def noise_level(self) -> float:
        """See :attr:`Multistep.noise_level`."""
        return self.stochasticity

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stochasticity < float("inf"):
            raise InputError(f"`stochasticity` must not be negative, got {self.stochasticity}")

    def describe(self) -> dict[str, Any]:
        """See :meth:`Sampler.describe`."""
        return super().describe() | {"stochasticity": self.stochasticity}


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The sampler of the papers: a draw of q(x_m | x_n, x_0) at every step, evenly in time.

    >>> import skild_physics as sk
    >>> sk.Ancestral(100).spacing
    'time'
    """

    n_evals: int = 1000
    spacing: Spacing = "time"

    name: ClassVar[str] = "ancestral"

    def integrate(
        self, process: Process, denoise: Denoiser, x: Tensor, steps: Tensor, noise: Noise
    ) -> Tensor:
        """See :meth:`Sampler.integrate`."""
        return ancestral(process, denoise, x, steps, noise)


SAMPLERS: dict[str, type[Sampler]] = {
    kind.name: kind for kind in (Multistep, Stochastic, Ancestral)
}


def sampler_of(name: str, **knobs: Any) -> Sampler:
    """The sampler of a name, with its own defaults where a knob is None.

    Raises:
        InputError: an unknown name, a knob that it does not have, or as :class:`Sampler`.
    """
    if name not in SAMPLERS:
        raise InputError(f"`sampler` must be one of {', '.join(SAMPLERS)}, got {name!r}")
    kind = SAMPLERS[name]
    given = {knob: value for knob, value in knobs.items() if value is not None}
    for knob in given.keys() - _knobs(kind):
        having = [other.name for other in SAMPLERS.values() if knob in _knobs(other)]
        check_none_given({knob: True}, f"goes with {' and '.join(having)} sampling")
    return kind(**given)


def _knobs(kind: type[Sampler]) -> set[str]:
    return {each.name for each in fields(kind)}
