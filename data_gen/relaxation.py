"""How many sweeps of exchanges forget where they started, measured on the fields themselves."""

import math

import numpy as np
from numpy.typing import NDArray

from skild_physics.data_gen.exchange import exchange_samples, exchange_thresholds, shuffled
from skild_physics.files import InputError
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.blocks import boundary_energy
from skild_physics.observables.energy import energy_per_spin
from skild_physics.xoshiro import seed_state

SWEEPS_IN_TAU_INT = 20.0
PILOT_FIELDS = 8
PILOT_STATES = 256
RESOLVED = PILOT_STATES / 50
"""A series fifty tau_int long says how long these are."""
MOST_SWEEPS = 4096
"""The largest spacing of a series."""


def tau_int_of_exchanges(ups: NDArray[np.int64], L: int, beta: float, seed: int) -> float:
    """The largest tau_int, in sweeps, of exchanges in the first fields of given block sums.

    Two chains of each field start from shuffled spins. After half as long as the series that
    follows, the energy, the energy of bonds between blocks, and the overlap with a third chain are
    measured, about their means of the field, so that chains that are stuck in different places have
    a long tau_int. Series have 256 states; their spacing is doubled until they are fifty times as
    long as tau_int.

    Args:
        ups: spins up of every block, shape (field, M, M).
        L: side of the lattice, a multiple of M.
        beta: inverse temperature, J = 1.
        seed: integer root seed; the pilot draws from streams that no draw uses.

    Raises:
        InputError: series of a million sweeps do not resolve it.
    """
    b = L // ups.shape[-1]
    fields = ups[:PILOT_FIELDS]
    if not beta or not ((fields > 0) & (fields < b * b)).any():
        return 0.5
    thresholds = exchange_thresholds(beta)
    chains = []
    for i, of_field in enumerate(fields):
        for c in range(3):
            spins, rng = np.empty((L, L), np.int8), seed_state(seed, i, c, 0)
            shuffled(of_field, rng, spins)
            chains.append((spins, rng))
    last, states = np.empty((1, L, L), np.int8), np.empty((PILOT_STATES, L, L), np.int8)
    step = 1
    while step <= MOST_SWEEPS:
        for spins, rng in chains:
            exchange_samples(spins, b, rng, thresholds, step * PILOT_STATES // 2, last)
        series = np.empty((len(fields), 2, 3, PILOT_STATES))
        for (i, c), (spins, rng) in zip(np.ndindex(len(fields), 3), chains, strict=True):
            if c < 2:
                exchange_samples(spins, b, rng, thresholds, step, states)
                other = chains[3 * i + 2][0]
                overlap = (states * other).sum(axis=(1, 2), dtype=np.int64) / L**2
                series[i, c] = energy_per_spin(states), boundary_energy(states, b), overlap
        series -= series.mean(axis=(1, 3), keepdims=True)
        tau = max(
            integrated_autocorrelation_time(series[:, :, k].reshape(-1, PILOT_STATES)).tau_int
            for k in range(3)
        )
        if tau <= RESOLVED:
            return tau * step
        step *= 2
    raise InputError(
        f"at beta = {beta:g} exchanges in {b} x {b} blocks do not forget where they started in "
        f"{MOST_SWEEPS * PILOT_STATES} sweeps; pass `sweeps`"
    )


def sweeps_for(tau_int: float) -> int:
    """Sweeps from shuffled spins to a draw that is independent of them."""
    return math.ceil(SWEEPS_IN_TAU_INT * tau_int)
