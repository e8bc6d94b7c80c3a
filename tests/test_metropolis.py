"""Sweeps over 64 spins at a time against one spin at a time, and against exact results."""

import hashlib

import numpy as np
import pytest

from skild_physics.data_gen import IsingParameters, generate
from skild_physics.data_gen.ising import generate_ising
from skild_physics.data_gen.metropolis import (
    LANES,
    _accepted,
    _half_sweep,
    acceptances,
    metropolis_sweeps,
)
from skild_physics.data_gen.wolff import wolff_advance
from skild_physics.fields.lattice import open_dataset
from skild_physics.files import InputError
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.observables.jackknife import jackknife
from skild_physics.xoshiro import seed_state


def words_of(bits):
    """Bits (L, L) as words (W, L + 2), rows -1 and L at the ends."""
    L = bits.shape[1]
    W = -(-L // 64)
    padded = np.zeros((len(bits), 64 * W), np.uint64)
    padded[:, :L] = bits
    words = (padded.reshape(len(bits), W, 64) << np.arange(64, dtype=np.uint64)).sum(-1).T
    return np.concatenate([words[:, -1:], words, words[:, :1]], axis=1)


def words_of_bytes(spins):
    """Spins (L, L) as the rows of bytes that clusters are grown on."""
    L = len(spins)
    stride = max(8, 2 ** (L - 1).bit_length())
    bits = np.zeros((L, stride), np.uint8)
    bits[:, :L] = spins < 0
    return bits.view(np.uint64)


def lanes_of(seed):
    lanes = np.zeros(8 * LANES, np.uint64)
    lanes[: 4 * LANES] = seed_state(seed, 0).repeat(LANES) * np.arange(1, 4 * LANES + 1).astype(
        np.uint64
    ) * np.uint64(2) + np.uint64(1)
    return lanes


@pytest.mark.parametrize("L", [4, 6, 62, 64, 66, 128, 130])
def test_half_a_sweep_is_one_of_single_spins(L):
    """Every spin of one parity by Metropolis' rule, written down plainly; words of every end."""
    rng = np.random.default_rng(L)
    spins = rng.integers(2, size=(L, L))
    of_one = rng.random((L, L)) < 0.5
    of_none = of_one & (rng.random((L, L)) < 0.5)
    neighbours = [np.roll(spins, by, axis) for by in (-1, 1) for axis in (0, 1)]
    unlike = sum((each != spins).astype(int) for each in neighbours)
    y, x = np.indices((L, L))
    for parity in (0, 1):
        turned = (unlike >= 2) | ((unlike == 1) & of_one) | ((unlike == 0) & of_none)
        turned &= (x + y) % 2 == parity
        out = np.zeros_like(words_of(spins))
        chosen = [words_of(each)[:, 1:-1].reshape(-1) for each in (of_one, of_none)]
        _half_sweep(words_of(spins), *chosen, parity, out)
        np.testing.assert_array_equal(out, words_of(spins ^ turned))


@pytest.mark.parametrize("beta", [0.02, 0.3, BETA_CRITICAL, 0.8])
@np.errstate(over="ignore")
def test_spins_are_turned_as_often_as_they_should_be(beta):
    """Frequencies of 2^18 bits within 5 sigma, what a rarer event allows a more frequent one does.

    Words of a lane and lanes of a word are not correlated: 5 sigma again.
    """
    n = 4096
    of_one, of_none = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    _accepted(lanes_of(3), acceptances(beta), of_one, of_none)
    assert not (of_none & ~of_one).any()
    for found, times in ((of_one, 4), (of_none, 8)):
        bits = np.unpackbits(found.view(np.uint8)).astype(float)
        p = np.exp(-times * beta)
        sigma = np.sqrt(p * (1 - p) / bits.size)
        assert abs(bits.mean() - p) < 5 * sigma
        for apart in (1, 64, 64 * LANES):
            product = ((bits[apart:] - p) * (bits[:-apart] - p)).mean()
            assert abs(product) < 5 * p * (1 - p) / np.sqrt(bits.size - apart)


@pytest.mark.parametrize("L", [4, 8, 66, 130])
@np.errstate(over="ignore")
def test_bytes_become_words_and_words_bytes(L):
    spins = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (L, L))
    W = -(-L // 64)
    room = np.zeros((2, W, L + 2), np.uint64), np.zeros((2, -(-W * L // LANES) * LANES), np.uint64)
    words = words_of_bytes(spins)
    metropolis_sweeps(words, *room, lanes_of(0), seed_state(0, 0), acceptances(0.4), 0)
    np.testing.assert_array_equal(words, words_of_bytes(spins))
    np.testing.assert_array_equal(room[0][0], words_of(spins < 0))
    # without temperature no spin is turned that has fewer than two unlike neighbours
    metropolis_sweeps(words, *room, lanes_of(0), seed_state(0, 0), np.zeros(2, np.uint64), 3)
    after = 1 - 2 * words.view(np.uint8)[:, :L].astype(int)
    assert energy_per_spin(after[None])[0] <= energy_per_spin(spins[None])[0]
    assert (after != spins).any()


@pytest.mark.parametrize(("L", "sweeps"), [(16, 1), (66, 4), (130, 4), (16, 0)])
def test_energy_of_every_mixture_is_kaufmans(L, sweeps):
    """Within 4 sigma; words that end early, and clusters alone."""
    samples = {16: 40_000, 66: 8000, 130: 3000}[L]
    energy = generate_ising(L, samples=samples, seed=5, sweeps=sweeps)["energy"].values
    value, stderr = jackknife(energy, lambda mean: mean, n_blocks=100)
    assert abs(value - torus_energy(L, BETA_CRITICAL)) < 4 * stderr


@pytest.mark.parametrize(
    ("L", "beta", "digest"),
    [(16, BETA_CRITICAL, "f3b966a1"), (7, 0.3, "2ca11639"), (6, -0.5, "8f583f69")],
)
def test_clusters_alone_make_the_fields_of_earlier_versions(L, beta, digest):
    fields = generate_ising(L, beta=beta, samples=40, seed=3, sweeps=0)
    assert fields.attrs["algorithm"] == "wolff"
    assert hashlib.sha256(fields.values.tobytes()).hexdigest().startswith(digest)


def test_what_is_chosen():
    assert IsingParameters.planned(8).sweeps == 4
    assert IsingParameters.planned(8).algorithm == "wolff after 4 metropolis sweeps"
    for without in (
        IsingParameters.planned(7),
        *(IsingParameters.planned(8, b) for b in (0, -0.01)),
    ):
        assert without.sweeps == 0
    assert IsingParameters.planned(8, sweeps=1).sweeps == 1
    with pytest.raises(InputError, match=r"`L` must be even for `sweeps`, got 7"):
        generate_ising(7, samples=2, sweeps=4)
    with pytest.raises(InputError, match=r"`sweeps` must be 0 at beta = 0\.001"):
        generate_ising(8, beta=0.001, samples=2, sweeps=4)
    for sweeps in (-1, 1001):
        with pytest.raises(InputError, match=f"`sweeps` must .*, got {sweeps}"):
            generate_ising(8, samples=2, sweeps=sweeps)


def test_hot_chains_are_given_the_time_they_need():
    """Single spins, each of which a cluster is, take L^2 / 4 updates to forget."""
    L = 64
    assert IsingParameters.planned(L, 1e-6).updates_between_samples > L**2 / 4


def test_other_algorithms_do_not_go_on(tmp_path):
    """A file of clusters alone, of an earlier version, is not extended with other fields."""
    path = tmp_path / "ising.h5"
    alone = IsingParameters.planned(8, seed=1, sweeps=0)
    generate(path, alone, 20)
    with pytest.raises(InputError, match=r"= wolff, not wolff after 4 .*; `sweeps` 0 goes on"):
        generate_ising(8, samples=30, seed=1, updates=alone.updates_between_samples, out=path)
    with (
        generate_ising(8, samples=30, seed=1, sweeps=0, out=path) as fields,
        open_dataset(path) as data,
    ):
        assert len(fields) == len(data["spins"]) == 30


def test_sweeps_forget_faster():
    """Updates with sweeps leave the correlation of energies smaller after one of them."""
    L, series = 32, {}
    for sweeps in (0, 4):
        spins, rng = np.ones((L, L), np.int8), seed_state(2, sweeps)
        wolff_advance(spins, rng, BETA_CRITICAL, 300, sweeps)
        energies = []
        for _ in range(4000):
            wolff_advance(spins, rng, BETA_CRITICAL, 1, sweeps)
            energies.append(energy_per_spin(spins[None])[0])
        series[sweeps] = np.corrcoef(energies[1:], energies[:-1])[0, 1]
    assert series[4] < series[0] - 0.1
