"""An ensemble in short: its energy against the exact one, and its effective sample size.

Errors are jackknifed over blocks of consecutive fields that outlast the correlation, see
:mod:`skild_physics.observables.evaluate`, or, if there are more of them, over the Markov chains,
which are independent.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.table import Table
from scipy.special import stdtr

from skild_physics.fields import open_fields
from skild_physics.files import InputError
from skild_physics.observables.autocorrelation import tau_int_of_chains
from skild_physics.observables.energy import energy_per_spin, magnetization_per_spin
from skild_physics.observables.evaluate import block_length
from skild_physics.observables.exact import has_exact_torus, torus_energy
from skild_physics.observables.jackknife import CONSISTENT, MIN_BLOCKS, replicas_of
from skild_physics.tables import Printed, with_error

MOST_BLOCKS = 64
BATCH_BYTES = 2**25


@dataclass(frozen=True, repr=False)
class EnsembleSummary(Printed):
    """Energy and |m| per spin of an ensemble with standard errors, and how independent it is.

    Args:
        samples: number of fields.
        energy: mean energy per spin, in J.
        energy_stderr: its standard error, nan from fewer than 8 blocks.
        energy_exact: that of the torus (Kaufman, Phys. Rev. 76, 1232 (1949)), nan if not known.
        energy_sigma: deviation from it in standard errors.
        abs_magnetization: mean |m| per spin.
        abs_magnetization_stderr: its standard error.
        n_effective: effective sample size, samples / (2 tau_int) with the larger tau_int, at most
            the number of samples.
        tau_int_energy: integrated autocorrelation time in fields of a chain, 1/2 if independent.
        tau_int_magnetization_squared: the same of m^2.
        n_blocks: blocks of the jackknife.
        errors: where the errors are from, in words.
    """

    samples: int
    energy: float
    energy_stderr: float
    energy_exact: float
    energy_sigma: float
    abs_magnetization: float
    abs_magnetization_stderr: float
    n_effective: float
    tau_int_energy: float
    tau_int_magnetization_squared: float
    n_blocks: int
    errors: str

    def tables(self) -> Sequence[Table]:
        """Measured and exact values."""
        table = Table("observable", "measured", "exact", "deviation")
        table.add_row(
            "energy per spin",
            with_error(self.energy, self.energy_stderr),
            f"{self.energy_exact:.6f}" if np.isfinite(self.energy_exact) else "",
            f"{self.energy_sigma:+.1f} sigma" if np.isfinite(self.energy_sigma) else "",
        )
        absolute = with_error(self.abs_magnetization, self.abs_magnetization_stderr)
        table.add_row("|m| per spin", absolute, "", "")
        return [table]

    def notes(self) -> Sequence[str]:
        """Effective sample size, where the errors are from, and last what was found, in words."""
        return [
            f"effective sample size {self.n_effective:.0f} of {self.samples} fields: tau_int = "
            f"{self.tau_int_energy:.2f} (energy), {self.tau_int_magnetization_squared:.2f} (m^2) "
            "in fields of a chain, 1/2 if independent",
            self.errors,
            *self.in_words(),
        ]

    def in_words(self) -> Sequence[str]:
        """Whether the energy is consistent with the exact one, where both are known, in a line.

        p is that of Student's t of as many blocks; consistent is 5 % or more.
        """
        if not np.isfinite(self.energy_sigma):
            return []
        p = 2 * float(stdtr(self.n_blocks - 1, -abs(self.energy_sigma)))
        which = "is consistent with" if p >= CONSISTENT else "differs from"
        return [
            f"the energy {which} the exact one of this torus: "
            f"{self.energy_sigma:+.1f} sigma, p = {p:.2g}"
        ]

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values by name."""
        return asdict(self)


def summarize(fields: Any) -> EnsembleSummary:
    """Energy and magnetisation of spins, with errors, and the exact energy of their torus.

    Args:
        fields: anything that :func:`skild_physics.fields.open_fields` takes, of spins on a torus.
            The coordinates `energy` and `magnetization` are taken where they are there; fields of
            different `chain` are independent, and without this coordinate all are of one chain. The
            exact energy is that of the attributes `model`, `L`, `boundary` and `beta`.

    Raises:
        InputError: no fields, or not spins on a square.

    Example:
        >>> import skild_physics as sk
        >>> from skild_physics.observables.ensemble import summarize
        >>> summary = summarize(sk.generate_ising(L=8, samples=64))
        >>> summary.n_blocks
        16
    """
    fields = open_fields(fields)
    n = _check(fields)
    energy, magnetization = _energy_and_magnetization(fields)
    of_chain = fields.coords["chain"].values if "chain" in fields.coords else np.zeros(n, int)
    numbers, chain = np.unique(of_chain, return_inverse=True)
    times = [tau_int_of_chains(series, chain) for series in (energy, magnetization**2)]
    block, what = _blocks(chain, len(numbers), max(times))
    n_blocks = int(block.max()) + 1

    both = np.stack([energy, np.abs(magnetization)], axis=1)
    value, stderr = both.mean(axis=0), np.full(2, np.nan)
    errors = f"no errors: {n_blocks} {what} are fewer than {MIN_BLOCKS}"
    if n_blocks >= MIN_BLOCKS:
        sums = np.array([np.bincount(block, column) for column in both.T], np.float64).T
        stderr = replicas_of({"mean": sums}, np.bincount(block), lambda mean: mean)["mean"].stderr
        errors = f"errors: jackknife over {n_blocks} {what}"
    exact = _exact_energy(fields)
    return EnsembleSummary(
        samples=n,
        energy=float(value[0]),
        energy_stderr=float(stderr[0]),
        energy_exact=exact,
        energy_sigma=float((value[0] - exact) / stderr[0]) if stderr[0] else float("nan"),
        abs_magnetization=float(value[1]),
        abs_magnetization_stderr=float(stderr[1]),
        n_effective=n / max(1.0, 2 * max(times)),
        tau_int_energy=times[0],
        tau_int_magnetization_squared=times[1],
        n_blocks=n_blocks,
        errors=errors,
    )


def _check(fields: xr.DataArray) -> int:
    if fields.ndim != 3 or fields.shape[1] != fields.shape[2]:
        raise InputError(f"`fields` must have shape (sample, L, L), got {fields.shape}")
    if not len(fields):
        raise InputError("`fields` holds no field")
    return len(fields)


def _is_whole(fields: xr.DataArray) -> bool:
    """Whether these are the lattices that the attributes speak of, not parts of them."""
    side = fields.shape[-1]
    return bool(fields.attrs.get("L", side) == side)


def _exact_energy(fields: xr.DataArray) -> float:
    attrs = fields.attrs
    is_torus = attrs.get("model") == "ising" and attrs.get("boundary") == "periodic"
    if not (is_torus and "beta" in attrs and _is_whole(fields)):
        return float("nan")
    L, beta = fields.shape[-1], float(attrs["beta"])
    return torus_energy(L, beta) if has_exact_torus(L, beta) else float("nan")


def _energy_and_magnetization(
    fields: xr.DataArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    names = ("energy", "magnetization")
    if all(name in fields.coords for name in names) and _is_whole(fields):
        return fields.coords["energy"].values, fields.coords["magnetization"].values
    n, side = len(fields), fields.shape[-1]
    energy, magnetization = np.empty(n), np.empty(n)
    step = max(1, BATCH_BYTES // side**2)
    for first in range(0, n, step):
        spins, here = fields[first : first + step].values, slice(first, first + step)
        if not (np.abs(spins) == 1).all():
            raise InputError("`fields` must be spins, +1 or -1")
        spins = spins.astype(np.int8)
        energy[here], magnetization[here] = energy_per_spin(spins), magnetization_per_spin(spins)
    return energy, magnetization


def _blocks(
    chain: NDArray[np.int64], n_chains: int, tau_int: float
) -> tuple[NDArray[np.int64], str]:
    """The block of every field, and what the blocks are."""
    n = len(chain)
    n_blocks = min(MOST_BLOCKS, int(n / (max(2.0, block_length(tau_int)) * n_chains)))
    if n_blocks <= n_chains:
        return chain, "chains"
    return np.arange(n) * n_blocks // n, "blocks of consecutive fields"
