"""Markov chains as pure functions: state in, state and fields out, on any thread or machine.

A chain at beta < 0 is that of the ferromagnet at -beta, and its fields are turned over on every
other site: on an even torus that turns each bond's energy, and so the sign of beta.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_physics.data_gen.parameters import IsingParameters
from skild_physics.data_gen.wolff import independent_samples, wolff_advance, wolff_samples
from skild_physics.observables.energy import energy_per_spin, magnetization_per_spin
from skild_physics.xoshiro import seed_state


class ChainState(NamedTuple):
    """Spins (L, L) int8, of the ferromagnet, and generator state (4,) uint64."""

    spins: NDArray[np.int8]
    rng: NDArray[np.uint64]


class Samples(NamedTuple):
    """Consecutive fields (sample, L, L) int8, with energy and magnetisation per spin (sample,)."""

    spins: NDArray[np.int8]
    energy: NDArray[np.float64]
    magnetization: NDArray[np.float64]


def start_chain(p: IsingParameters, c: int) -> ChainState:
    """Chain c, thermalised from the ordered state."""
    state = ChainState(np.ones((p.L, p.L), np.int8), seed_state(p.seed, c))
    if p.beta:
        wolff_advance(*state, abs(p.beta), p.thermalization_updates, p.sweeps)
    return state


def advance_chain(p: IsingParameters, state: ChainState, n: int) -> tuple[ChainState, Samples]:
    """The chain's next n fields, and its state after them."""
    after = ChainState(state.spins.copy(), state.rng.copy())
    spins = np.empty((n, p.L, p.L), np.int8)
    if p.beta:
        wolff_samples(*after, abs(p.beta), p.updates_between_samples, p.sweeps, spins)
    else:
        independent_samples(after.rng, spins)
    if p.beta < 0:
        y, x = np.indices((p.L, p.L))
        spins *= (1 - 2 * ((x + y) % 2)).astype(np.int8)
    return after, Samples(spins, energy_per_spin(spins), magnetization_per_spin(spins))


def fields_due(c: int, start: int, stop: int, n_chains: int) -> int:
    """How many of the fields start .. stop - 1 belong to chain c."""
    return len(range(start + (c - start) % n_chains, stop, n_chains))
