"""Which basis fields fit, told from the jump across their edges."""

import numpy as np
import pytest

import skild_physics as sk
from skild_physics.fields.edges import compare_edges

BETA_C = float(np.log1p(np.sqrt(2)) / 2)


def power_law(n, N, alpha, seed=0):
    """Gaussian fields on a torus whose modes have the amplitude k^-alpha."""
    q = np.fft.fftfreq(N) * N
    k = np.hypot(q[:, None], q)
    k[0, 0] = np.inf
    noise = np.random.default_rng(seed).standard_normal((n, 1, N, N))
    return np.fft.ifft2(np.fft.fft2(noise) * k**-alpha).real


@pytest.mark.parametrize("N", [16, 33, 64])
@pytest.mark.parametrize("alpha", [0.7, 1.5])
def test_smooth_fields_on_a_torus_and_patches_of_them(N, alpha):
    assert compare_edges(power_law(64, N, alpha)).basis == "periodic"
    assert compare_edges(power_law(64, 2 * N, alpha)[..., :N, :N]).basis == "cosine"


@pytest.mark.parametrize("beta", [0.2, 0.35, BETA_C, 0.46])
def test_lattices_and_patches_of_them(beta):
    spins = sk.generate_ising(L=64, samples=128, beta=beta, seed=1).values[:, None]
    assert compare_edges(spins).basis == "periodic"
    assert compare_edges(spins[..., :32, :32]).basis == "cosine"


def test_photographs_do_not_join():
    fields = sk.open("photographs")[:256].values
    assert compare_edges(fields).basis == "cosine"


def test_the_ratio_is_one_on_a_torus():
    edges = compare_edges(power_law(256, 32, 1.0, seed=3))
    assert abs(edges.ratio - 1) < 4 * edges.stderr
    assert edges.stderr < 0.1
    assert str(edges).startswith("edges join as on a torus (mean squared jump ")


@pytest.mark.parametrize("n", [1, 3, 300])
def test_white_noise_fits_both(n):
    assert compare_edges(np.random.default_rng(n).standard_normal((n, 1, 32, 32))).basis is None


@pytest.mark.parametrize("values", [0, 3.5])
def test_constant_fields_tell_nothing(values):
    edges = compare_edges(np.full((20, 2, 8, 8), values))
    assert edges.basis is None
    assert np.isnan(edges.ratio)
    assert compare_edges(np.ones((5, 1, 2, 2))).basis is None


def test_dark_frames_are_no_torus():
    pictures = np.zeros((40, 1, 28, 28))
    pictures[..., 4:24, 4:24] = np.random.default_rng(0).random((40, 1, 20, 20))
    assert compare_edges(pictures).basis is None


@pytest.mark.parametrize("n", [1, 2, 8, 20])
def test_few_fields_are_seldom_taken_for_what_they_are_not(n):
    for trial in range(40):
        torus = power_law(n, 32, 1.0, seed=trial)
        patch = power_law(n, 64, 1.0, seed=trial)[..., :32, :32]
        assert compare_edges(torus).basis != "cosine"
        assert compare_edges(patch).basis != "periodic"
