"""What determines an ensemble, and the pilot run that sets its spacing.

Integrated autocorrelation times, tau_int = 1/2 + sum rho, of the energy and of m^2 are measured in
cluster updates. Fields are saved three times the larger apart, after a hundred spacings of
thermalisation from the ordered state. An antiferromagnet, beta < 0, has the times of its
ferromagnet: m is its staggered magnetisation there. At beta = 0 spins are drawn, all anew for every
field, and nothing is correlated.
"""

import math
import operator
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from skild_physics.data_gen.wolff import (
    bond_threshold,
    wolff_advance,
    wolff_samples,
)
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, SCHEMA_VERSION
from skild_physics.files import InputError, check_seed
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.energy import energy_per_spin, magnetization_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.progress import Progress, silent
from skild_physics.xoshiro import BIT_GENERATOR, seed_state

SPACING_IN_TAU_INT = 3.0
THERMALIZATION_IN_SPACINGS = 100
PILOT_LATTICES = 40
PILOT_STEPS = (2000, 20_000)
PILOT_FLIPS = 10**8
N_CHAINS = 16
MAX_L = 2**15
MAX_UPDATES = 10**12


@dataclass(frozen=True)
class IsingParameters:
    """Everything that determines the fields of an ensemble, apart from how many there are.

    Args:
        L: side of the torus, 3 or more.
        beta: inverse temperature, J = 1; negative for an antiferromagnet, on even L.
        seed: integer root seed.
        updates_between_samples: cluster updates between saved fields of a chain.
        thermalization_updates: cluster updates of each chain before its first spacing.
        n_chains: independent chains.

    Raises:
        InputError: a parameter out of range, naming it.
    """

    L: int
    beta: float
    seed: int
    updates_between_samples: int
    thermalization_updates: int
    n_chains: int = N_CHAINS

    def __post_init__(self) -> None:
        if not 3 <= self.L <= MAX_L:
            raise InputError(f"`L` must lie in 3 .. {MAX_L}, got {self.L}")
        if not math.isfinite(self.beta):
            raise InputError(f"`beta` must be finite, got {self.beta}")
        if self.beta < 0 and self.L % 2:
            raise InputError(
                f"`L` must be even for a negative `beta`, got {self.L}: an antiferromagnet is "
                "frustrated on an odd torus"
            )
        # -0.0 is 0, and is written so
        object.__setattr__(self, "beta", self.beta + 0.0)
        check_seed(self.seed)
        for name in ("updates_between_samples", "n_chains"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.updates_between_samples > MAX_UPDATES:
            raise InputError(
                f"`updates` must be at most {MAX_UPDATES:,}, got {self.updates_between_samples:.3g}"
            )
        if self.thermalization_updates < 0:
            raise InputError(
                f"`thermalization_updates` must not be negative, got {self.thermalization_updates}"
            )

    @classmethod
    def planned(
        cls,
        L: int,
        beta: float = BETA_CRITICAL,
        seed: int = 0,
        updates: int | None = None,
        n_chains: int = N_CHAINS,
        progress: Progress = silent,
    ) -> "IsingParameters":
        """Parameters with the spacing, unless given, and thermalisation set by a pilot run.

        The pilot draws from a stream of the same seed that no chain uses, so equal arguments give
        equal parameters.
        """
        probe = cls(L, beta, seed, updates or 1, 0, n_chains)
        if not beta:
            return probe
        times = pilot(L, abs(beta), seed, n_chains, progress)
        spacing = max(1, math.ceil(SPACING_IN_TAU_INT * max(times)))
        return replace(
            probe,
            updates_between_samples=updates or spacing,
            thermalization_updates=THERMALIZATION_IN_SPACINGS * spacing,
        )

    def attributes(self) -> dict[str, Any]:
        """The parameters as root attributes of a file."""
        return {
            "schema": ENSEMBLE_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "model": "ising",
            "J": 1.0,
            "boundary": "periodic",
            "algorithm": "wolff" if self.beta else "independent spins",
            "start": "ordered" if self.beta else "none",
            "bit_generator": BIT_GENERATOR,
            **asdict(self),
        }


class PilotTimes(NamedTuple):
    """tau_int of the energy and of m^2, in cluster updates."""

    energy: float
    magnetization_squared: float


_MEASURED: dict[tuple[int, float, int, int], PilotTimes] = {}


def pilot(
    L: int, beta: float, seed: int, n_chains: int = N_CHAINS, progress: Progress = silent
) -> PilotTimes:
    """Integrated autocorrelation times of a ferromagnet from a chain that no ensemble uses.

    From the ordered state the chain flips 40 lattices' worth of spins to relax, and is then
    measured 2,000 to 20,000 times, the more the smaller it is, after every half lattice. Measured
    once in a process.
    """
    if not beta:
        return PilotTimes(0.5, 0.5)
    key = (L, beta, seed, n_chains)
    if key not in _MEASURED:
        steps = int(np.clip(PILOT_FLIPS // (L**2 // 2), *PILOT_STEPS))
        with progress("pilot run", steps) as show:
            _MEASURED[key] = _pilot_times(L, beta, seed_state(seed, n_chains), steps, show)
    return _MEASURED[key]


def _pilot_times(
    L: int, beta: float, rng: NDArray[np.uint64], steps: int, show: Callable[..., None]
) -> PilotTimes:
    show(0)
    spins = np.ones((L, L), np.int8)
    threshold = bond_threshold(beta)
    flips = clusters = 0
    for _ in range(2):
        flips = clusters = 0
        while flips < PILOT_LATTICES / 2 * L**2:
            flips += wolff_advance(spins, rng, threshold, 16)
            clusters += 16
    step = max(1, round(0.5 * L**2 * clusters / flips))
    series: list[tuple[float, float]] = []
    batch = np.empty((min(steps, max(1, 2**24 // L**2)), L, L), np.int8)
    while len(series) < steps:
        wolff_samples(spins, rng, threshold, step, batch)
        series += list(zip(energy_per_spin(batch), magnetization_per_spin(batch) ** 2, strict=True))
        show(min(len(series), steps))
    energy, m2 = np.array(series).T
    return PilotTimes(
        *(integrated_autocorrelation_time(x[None]).tau_int * step for x in (energy, m2))
    )


def integer(name: str, value: SupportsIndex, least: int, otherwise: str = "") -> int:
    """A whole number of at least ``least``; raises InputError naming the parameter."""
    try:
        found = operator.index(value)
    except TypeError:
        raise InputError(f"`{name}` must be an integer{otherwise}, got {value!r}") from None
    if found < least:
        raise InputError(f"`{name}` must be at least {least}, got {found}")
    return found


def number(name: str, value: SupportsFloat | str) -> float:
    """A number, not a text; raises InputError naming the parameter."""
    if isinstance(value, str) or not isinstance(value, SupportsFloat):
        raise InputError(f"`{name}` must be a number or 'critical', got {value!r}")
    return float(value)


def sweeps_of(value: SupportsIndex, least: int, otherwise: str = "") -> int:
    """A number of sweeps that can be made; raises InputError otherwise."""
    sweeps = integer("sweeps", value, least, otherwise)
    if sweeps > MAX_UPDATES:
        raise InputError(f"`sweeps` must be at most {MAX_UPDATES:,}, got {sweeps:.3g}")
    return sweeps


def threads_of(workers: int | Literal["auto"]) -> int:
    """How many threads share the work; "auto": one per processor.

    Raises:
        InputError: not a number of at least one.
    """
    if workers == "auto":
        return os.cpu_count() or 1
    return integer("workers", workers, 1, " or 'auto'")
