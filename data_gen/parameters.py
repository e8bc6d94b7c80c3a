"""What determines an ensemble, and the pilot run that sets its spacing.

Integrated autocorrelation times, tau_int = 1/2 + sum rho, of the energy and of m^2 are measured in
updates, a cluster after some sweeps of Metropolis each. Fields are saved three times the larger
apart, after a hundred spacings of thermalisation from the ordered state. An antiferromagnet, beta
< 0, has the times of its ferromagnet: m is its staggered magnetisation there. At beta = 0 spins
are drawn, all anew for every field, and nothing is correlated.
"""

import math
import operator
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from skild_physics.data_gen.wolff import wolff_advance, wolff_samples
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, SCHEMA_VERSION
from skild_physics.files import InputError, check_seed
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.energy import energy_per_spin, magnetization_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.progress import Progress, silent
from skild_physics.xoshiro import BIT_GENERATOR, seed_state

SPACING_IN_TAU_INT = 3.0
THERMALIZATION_IN_SPACINGS = 100
SWEEPS = 4
MOST_SWEEPS = 1000
LEAST_SWEPT_BETA = 0.05
"""Below, sweeps turn almost every spin over, and back."""
PILOT_LATTICES = 40
PILOT_RELAXING = 2000
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
        updates_between_samples: updates between saved fields of a chain.
        thermalization_updates: updates of each chain before its first spacing.
        n_chains: independent chains.
        sweeps: of Metropolis, before the cluster of every update; on even L, abs(beta) >= 0.05.

    Raises:
        InputError: a parameter out of range, naming it.
    """

    L: int
    beta: float
    seed: int
    updates_between_samples: int
    thermalization_updates: int
    n_chains: int = N_CHAINS
    sweeps: int = 0

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
        if not 0 <= self.sweeps <= MOST_SWEEPS:
            raise InputError(f"`sweeps` must lie in 0 .. {MOST_SWEEPS:,}, got {self.sweeps}")
        if self.sweeps and self.L % 2:
            raise InputError(
                f"`L` must be even for `sweeps`, got {self.L}: on an odd torus they would change "
                "neighbours at once; leave `sweeps` out"
            )
        if self.sweeps and abs(self.beta) < LEAST_SWEPT_BETA:
            raise InputError(
                f"`sweeps` must be 0 at beta = {self.beta:g}: where it is below {LEAST_SWEPT_BETA} "
                "they turn almost every spin over, and back"
            )
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
        sweeps: int | None = None,
    ) -> "IsingParameters":
        """Parameters with the spacing, unless given, and thermalisation set by a pilot run.

        The pilot draws from a stream of the same seed that no chain uses, so equal arguments give
        equal parameters.
        """
        if sweeps is None:
            sweeps = default_sweeps(L, beta)
        probe = cls(L, beta, seed, updates or 1, 0, n_chains, sweeps)
        if not beta:
            return probe
        times = pilot(probe, progress)
        spacing = max(1, math.ceil(SPACING_IN_TAU_INT * max(times)))
        return replace(
            probe,
            updates_between_samples=updates or spacing,
            thermalization_updates=THERMALIZATION_IN_SPACINGS * spacing,
        )

    @property
    def algorithm(self) -> str:
        """In words."""
        if not self.beta:
            return "independent spins"
        return f"wolff after {self.sweeps} metropolis sweeps" if self.sweeps else "wolff"

    def attributes(self) -> dict[str, Any]:
        """The parameters as root attributes of a file."""
        own = asdict(self)
        # files of earlier versions, which had clusters alone, say nothing of sweeps
        del own["sweeps"]
        return {
            "schema": ENSEMBLE_SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "model": "ising",
            "J": 1.0,
            "boundary": "periodic",
            "algorithm": self.algorithm,
            "start": "ordered" if self.beta else "none",
            "bit_generator": BIT_GENERATOR,
            **own,
        }


def default_sweeps(L: int, beta: float) -> int:
    """Of Metropolis before each cluster, where they may be."""
    return 0 if L % 2 or not abs(beta) >= LEAST_SWEPT_BETA else SWEEPS


class PilotTimes(NamedTuple):
    """tau_int of the energy and of m^2, in updates."""

    energy: float
    magnetization_squared: float


_MEASURED: dict[tuple[int, float, int, int, int], PilotTimes] = {}


def pilot(p: IsingParameters, progress: Progress = silent) -> PilotTimes:
    """Integrated autocorrelation times of the ferromagnet, from a chain that no ensemble uses.

    From the ordered state the chain flips 40 lattices' worth of spins in clusters to relax, with
    sweeps in 2,000 updates at most, and is then measured 2,000 to 20,000 times, the more the
    smaller it is, after every half lattice, with sweeps after every update. Measured once in a
    process.
    """
    beta = abs(p.beta)
    if not beta:
        return PilotTimes(0.5, 0.5)
    key = (p.L, beta, p.seed, p.n_chains, p.sweeps)
    if key not in _MEASURED:
        steps = int(np.clip(PILOT_FLIPS // (p.L**2 // 2), *PILOT_STEPS))
        with progress("pilot run", steps) as show:
            _MEASURED[key] = _pilot_times(p, seed_state(p.seed, p.n_chains), steps, show)
    return _MEASURED[key]


def _pilot_times(
    p: IsingParameters, rng: NDArray[np.uint64], steps: int, show: Callable[..., None]
) -> PilotTimes:
    show(0)
    L, chain = p.L, (np.ones((p.L, p.L), np.int8), rng, abs(p.beta))
    flips = clusters = 0
    for _ in range(2):
        flips = clusters = 0
        while flips < PILOT_LATTICES / 2 * L**2 and not (
            p.sweeps and clusters >= PILOT_RELAXING / 2
        ):
            flips += wolff_advance(*chain, 16, p.sweeps)
            clusters += 16
    step = 1 if p.sweeps else max(1, round(0.5 * L**2 * clusters / flips))
    series: list[tuple[float, float]] = []
    batch = np.empty((min(steps, max(1, 2**24 // L**2)), L, L), np.int8)
    while len(series) < steps:
        wolff_samples(*chain, step, p.sweeps, batch)
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
