"""Generated ensembles against results that nobody here computed by simulation."""

import numpy as np
import pytest
from scipy.stats import chi2

from skild_physics.data_gen import IsingParameters, generate
from skild_physics.data_gen.wolff import wolff_advance
from skild_physics.fields.lattice import open_dataset
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy, torus_specific_heat
from skild_physics.observables.jackknife import jackknife
from skild_physics.xoshiro import seed_state


def energies_and_magnetizations(path, parameters, samples):
    generate(path, parameters, samples, workers=2)
    with open_dataset(path) as data:
        return data["energy"].values, data["magnetization"].values


@pytest.mark.parametrize(
    ("L", "samples"),
    [
        (32, 330_000),
        *(
            pytest.param(L, samples, marks=pytest.mark.slow)
            for L, samples in ((8, 3_200_000), (16, 1_050_000), (64, 105_000), (128, 32_000))
        ),
    ],
)
def test_critical_energy_to_two_in_ten_thousand(tmp_path, L, samples):
    """Within 4 sigma of Kaufman's energy, with sigma <= 2e-4; the specific heat as well."""
    energy, _ = energies_and_magnetizations(
        tmp_path / "ising.h5", IsingParameters.planned(L, seed=L), samples
    )
    both = np.stack([energy, energy**2], axis=1)
    value, stderr = jackknife(
        both,
        lambda m: np.array([m[0], BETA_CRITICAL**2 * L**2 * (m[1] - m[0] ** 2)]),
        n_blocks=200,
    )
    assert stderr[0] <= 2e-4
    assert abs(value[0] - torus_energy(L, BETA_CRITICAL)) < 4 * stderr[0]
    assert abs(value[1] - torus_specific_heat(L, BETA_CRITICAL)) < 4 * stderr[1]


@pytest.mark.parametrize("beta", [0.3, BETA_CRITICAL, 0.6])
def test_joint_histogram_of_energy_and_magnetisation(tmp_path, beta):
    """Chi-square of the 4 x 4 torus against all 2^16 states."""
    L, samples = 4, 60_000
    states = np.arange(2**16)
    s = 1 - 2 * ((states[:, None] >> np.arange(16)) & 1).reshape(-1, L, L)
    E = -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2))
    M = s.sum((1, 2))
    weight = np.exp(-beta * (E - E.min()))
    cells, cell = np.unique(np.stack([E, M]), axis=1, return_inverse=True)
    expected = np.bincount(cell.ravel(), weight) / weight.sum() * samples

    # fields nine autocorrelation times apart: the chi-square test wants independent ones
    spacing = 3 * IsingParameters.planned(L, beta, seed=6).updates_between_samples
    parameters = IsingParameters.planned(L, beta, seed=6, updates=spacing)
    e, m = energies_and_magnetizations(tmp_path / "ising.h5", parameters, samples)
    found = np.rint(np.stack([e, m]) * L**2).astype(int)
    observed = np.array([(found == c[:, None]).all(axis=0).sum() for c in cells.T])
    assert observed.sum() == samples
    rare = expected < 10
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1e-9:
        observed, expected = observed[:-1], expected[:-1]
    statistic = np.sum((observed - expected) ** 2 / expected)
    assert chi2.sf(statistic, len(expected) - 1) > 6e-5


def test_binder_parameter(tmp_path):
    """U4 = 0.61069 at the critical point (Kamieniarz and Bloete 1993), up to corrections in 1/L."""
    _, m = energies_and_magnetizations(
        tmp_path / "ising.h5", IsingParameters.planned(64, seed=2), 40_000
    )
    powers = np.stack([m**2, m**4], axis=1)
    value, stderr = jackknife(powers, lambda p: 1 - p[1] / (3 * p[0] ** 2), n_blocks=100)
    assert stderr < 1e-3
    assert abs(value - 0.61069) < 4 * stderr + 2e-4


def test_thermalisation_is_long_enough(tmp_path):
    """The first field of each of 8,000 chains: nothing but thermalisation lies before it."""
    parameters = IsingParameters.planned(16, seed=9, n_chains=8000)
    e, m = energies_and_magnetizations(tmp_path / "ising.h5", parameters, 8000)
    value, stderr = jackknife(e, lambda mean: mean, n_blocks=8000)
    assert abs(value - torus_energy(16, BETA_CRITICAL)) < 4 * stderr
    value, stderr = jackknife(m, lambda mean: mean, n_blocks=8000)
    assert abs(value) < 4 * stderr


def test_stopping_when_enough_spins_have_flipped_would_be_seen():
    """The size-biased rule, put in on purpose: the energy is off by more than twenty sigma.

    The same chain saved after a fixed number of updates passes, so the tests above would catch it.
    """
    L = 16
    exact = torus_energy(L, BETA_CRITICAL)

    def chain(biased, samples=20_000):
        spins, rng = np.ones((L, L), np.int8), seed_state(4, 0)
        wolff_advance(spins, rng, BETA_CRITICAL, 600)
        energies = np.empty(samples)
        for i in range(samples):
            flipped = 0
            while flipped < (2 * L**2 if biased else 1):
                flipped += wolff_advance(spins, rng, BETA_CRITICAL, 1 if biased else 6)
            energies[i] = -np.mean(spins * (np.roll(spins, 1, 0) + np.roll(spins, 1, 1)))
        return jackknife(energies, lambda mean: mean)

    value, stderr = chain(biased=True)
    assert value < exact - 20 * stderr
    value, stderr = chain(biased=False)
    assert abs(value - exact) < 4 * stderr
