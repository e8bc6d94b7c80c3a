"""Measured observables of Ising fields against exact values, as z-scores.

On the torus at any temperature, also of an antiferromagnet (beta < 0) of even L: energy,
nearest-neighbour correlation -e/2 and specific heat (Kaufman 1949), and for L <= 4 the four-point
correlator, by enumeration of all states. At the critical point also values of the infinite lattice,
from which finite lattices differ: the correlation 2/pi of next neighbours, on the diagonal, eta =
1/4 and the Binder parameter 0.61069 of the square torus (Kamieniarz and Bloete, J. Phys. A 26, 201
(1993)).
"""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from skild_physics.observables.corners import corner_moments, kappa4
from skild_physics.observables.exact import (
    BETA_CRITICAL,
    enumerated_torus,
    has_exact_torus,
    torus_energy,
    torus_specific_heat,
)

BINDER_CRITICAL = 0.61069
LARGEST_ENUMERATED = 4


class Comparison(NamedTuple):
    """An exact value, and how many standard errors a source is away from it."""

    observable: str
    exact: float
    of_infinite_lattice: bool
    value: float
    stderr: float

    @property
    def z(self) -> float:
        """(value - exact) / stderr."""
        return (self.value - self.exact) / self.stderr if self.stderr else float("nan")


def compare_with_exact(results: xr.Dataset, source: str) -> list[Comparison]:
    """All comparisons that are possible for a source of Ising spins on the torus.

    Args:
        results: of :func:`skild_physics.observables.evaluate.eval_correlators`, for fields that
            are not block spins.
        source: label of the source.
    """
    here, about = results.sel(source=source), results.attrs
    L, beta = int(about["L"]), float(here["beta"] if "beta" in here else about["beta"])
    if about["boundary"] != "periodic" or about["block_spin_rounds"]:
        return []
    if not has_exact_torus(L, beta):
        return []
    G, dG = here["two_point"].values, here["two_point_stderr"].values
    found = []

    def add(name: str, exact: float, infinite: bool, value: Any, stderr: Any) -> None:
        found.append(Comparison(name, exact, infinite, float(value), float(stderr)))

    energy = torus_energy(L, beta)
    add("energy per spin", energy, False, here["energy"], here["energy_stderr"])
    error = float(here["energy_stderr"]) / 2
    add("neighbours", 0.0 - energy / 2, False, G[1, :2].mean(), error)
    if beta:
        heat = torus_specific_heat(L, beta)
        add("specific heat", heat, False, here["specific_heat"], here["specific_heat_stderr"])
    if L <= LARGEST_ENUMERATED:
        states, weights = enumerated_torus(L, beta)
        sides = results["side"].values
        moments = np.average(corner_moments(states, sides, "periodic"), axis=0, weights=weights)
        for i, exact in enumerate(kappa4(moments)):
            row, error = here["kappa4"].values[i], here["kappa4_stderr"].values[i]
            add(f"kappa4(r = {sides[i]})", float(exact), False, row, error)
    if abs(beta - BETA_CRITICAL) < 1e-9:
        add("next neighbours", 2 / np.pi, True, G[1, 2], dG[1, 2])
        add("Binder parameter", BINDER_CRITICAL, True, here["binder"], here["binder_stderr"])
        if np.isfinite(here["eta"]):
            add("eta", 0.25, True, here["eta"], here["eta_stderr"])
    return found
