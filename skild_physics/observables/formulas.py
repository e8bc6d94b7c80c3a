"""Observables of a lattice of N = L^2 sites, from means <.> over fields (e and m per site).

susceptibility             chi = |beta| N (<m^2> - <|m|>^2), beta < 0 of the antiferromagnet J = -1
specific heat              c = beta^2 N (<e^2> - <e>^2)
Binder parameter           U4 = 1 - <m^4> / (3 <m^2>^2)
two-point function         G(r) = <s(0) s(r)>
structure factor           S(k) = <|sum_x s(x) e^(-ikx)|^2> / N
correlation length         second moment, from S(0) and S(2 pi / L)
anomalous dimension        eta, from the decay of G along the axes: on the critical torus
                           G(r) = A |theta_1'(0) / theta_1(z)|^eta sum_nu |theta_nu(z/2)|,
                           z = r/L, nome e^-pi (Di Francesco, Saleur and Zuber,
                           Nucl. Phys. B 290, 527 (1987)), here fitted to L/16 <= r <= L/2.
"""

from typing import NamedTuple

import numpy as np

from skild_physics.observables.corners import kappa4
from skild_physics.observables.jackknife import Array
from skild_physics.observables.measure import Boundary, Means
from skild_physics.observables.twopoint import second_moment_correlation_length


class Observable(NamedTuple):
    """What a name stands for: its units, what it is, and its dimensions besides the source."""

    units: str
    long_name: str
    dims: tuple[str, ...] = ()


OBSERVABLES = {
    "kappa4": Observable("1", "connected four-point correlator, zero-mean form", ("side",)),
    "kappa4_cumulant": Observable("1", "fourth joint cumulant of the corners", ("side",)),
    "energy": Observable("J", "energy per spin"),
    "abs_magnetization": Observable("1", "mean absolute magnetisation per spin"),
    "m2": Observable("1", "mean squared magnetisation per spin"),
    "m4": Observable("1", "mean fourth power of the magnetisation per spin"),
    "susceptibility": Observable("1/J", "susceptibility per spin"),
    "specific_heat": Observable("1", "specific heat per spin"),
    "binder": Observable("1", "Binder parameter"),
    "correlation_length": Observable("lattice spacing", "second-moment correlation length"),
    "eta": Observable("1", "anomalous dimension from the decay of the two-point function"),
    "two_point": Observable("1", "two-point function", ("distance", "direction")),
    "structure_factor": Observable("1", "structure factor along the axes", ("mode",)),
    "magnetization_histogram": Observable(
        "1", "share of fields in a bin of the magnetisation", ("m",)
    ),
    "near_zero": Observable("1", "share of sites with |field| < 0.1, before binarisation"),
    "clusters": Observable("1", "clusters of equal spins per site"),
    "largest_cluster": Observable("1", "share of sites in the largest cluster"),
    "cluster_sizes": Observable("1", "clusters in a bin of sizes, per site", ("size",)),
}


def torus_decay(L: int) -> tuple[Array, Array]:
    """ln |theta_1(r/L) / theta_1'(0)| and ln sum_nu |theta_nu(r/2L)| for r = 1 .. L/2."""
    z = np.arange(1, L // 2 + 1) / L
    n = np.arange(8)
    half, whole = np.exp(-np.pi) ** ((n + 0.5) ** 2), np.exp(-np.pi) ** ((n + 1) ** 2)
    sign = (-1.0) ** n

    def thetas(x: Array) -> list[Array]:
        odd, even = np.pi * np.outer(x, 2 * n + 1), 2 * np.pi * np.outer(x, n + 1)
        return [
            2 * np.sin(odd) @ (sign * half),
            2 * np.cos(odd) @ half,
            1 + 2 * np.cos(even) @ whole,
            1 - 2 * np.cos(even) @ (sign * whole),
        ]

    slope = 2 * np.pi * float((sign * half) @ (2 * n + 1))
    return np.log(thetas(z)[0] / slope), np.log(np.sum(np.abs(thetas(z / 2)), axis=0))


def eta(G: Array, L: int) -> Array:
    """Anomalous dimension from a two-point function, shape (distance, direction); may be nan."""
    first = max(1, L // 16)
    along = G[first : L // 2 + 1, :2].mean(axis=1)
    if len(along) < 3 or not (along > 0).all():
        return np.array(np.nan)
    distance, sectors = (row[first - 1 :] for row in torus_decay(L))
    away = distance - distance.mean()
    return np.asarray(-(away @ (np.log(along) - sectors)) / (away @ away))


def observables(mean: Means, L: int, beta: float, boundary: Boundary) -> Means:
    """Observables from means over fields.

    Args:
        mean: of the quantities of :func:`skild_physics.observables.measure.quantities`.
        L: side of the lattice.
        beta: inverse temperature; nan: susceptibility and specific heat are nan.
        boundary: of the fields; an open one has neither structure factor nor what follows from it.
    """
    N = L**2
    found = {
        "kappa4": kappa4(mean["corners"]),
        "kappa4_cumulant": kappa4(mean["corners"], zero_mean=False),
        "energy": mean["energy"],
        "abs_magnetization": mean["abs_m"],
        "m2": mean["m2"],
        "m4": mean["m4"],
        "susceptibility": abs(beta) * N * (mean["m2"] - mean["abs_m"] ** 2),
        "specific_heat": beta**2 * N * (mean["energy2"] - mean["energy"] ** 2),
        "binder": 1 - mean["m4"] / (3 * mean["m2"] ** 2),
        "two_point": mean["two_point"],
        "magnetization_histogram": mean["histogram"],
    }
    if boundary == "periodic":
        S = mean["structure_factor"]
        found["structure_factor"] = S
        xi = second_moment_correlation_length(S[0], S[1], L)
        found["correlation_length"] = np.where(np.isfinite(xi), xi, np.nan)
        found["eta"] = eta(mean["two_point"], L)
    for name in ("near_zero", "clusters", "largest_cluster", "cluster_sizes"):
        if name in mean:
            found[name] = mean[name]
    return {name: np.asarray(value) for name, value in found.items()}
