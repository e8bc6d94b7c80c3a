"""Which basis fields fit, told from the jump across their edges."""

import numpy as np
import pytest

import skild_physics as sk
from skild_physics.fields.edges import compare_edges, fitting_basis

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
    assert fitting_basis(power_law(64, N, alpha)) == "periodic"
    assert fitting_basis(power_law(64, 2 * N, alpha)[..., :N, :N]) == "cosine"


@pytest.mark.parametrize("beta", [0.2, 0.35, BETA_C, 0.46])
def test_lattices_and_patches_of_them(beta):
    spins = sk.generate_ising(L=64, samples=128, beta=beta, seed=1).values[:, None]
    assert fitting_basis(spins) == "periodic"
    assert fitting_basis(spins[..., :32, :32]) == "cosine"


def test_photographs_do_not_join():
    fields = sk.open("photographs")[:256].values
    assert fitting_basis(fields) == "cosine"


def test_the_ratio_is_one_on_a_torus():
    edges = compare_edges(power_law(256, 32, 1.0, seed=3))
    assert abs(edges.ratio - 1) < 4 * edges.stderr
    assert edges.stderr < 0.1
    assert str(edges).startswith("edges join as on a torus (mean squared jump ")


@pytest.mark.parametrize("n", [1, 3, 300])
def test_white_noise_fits_both(n):
    assert fitting_basis(np.random.default_rng(n).standard_normal((n, 1, 32, 32))) is None


@pytest.mark.parametrize("values", [0, 3.5])
def test_constant_fields_tell_nothing(values):
    edges = compare_edges(np.full((20, 2, 8, 8), values))
    assert edges.basis is None
    assert np.isnan(edges.ratio)
    assert fitting_basis(np.ones((5, 1, 2, 2))) is None


def test_dark_frames_are_no_torus():
    pictures = np.zeros((40, 1, 28, 28))
    pictures[..., 4:24, 4:24] = np.random.default_rng(0).random((40, 1, 20, 20))
    assert fitting_basis(pictures) is None


@pytest.mark.parametrize("n", [1, 2, 8, 20])
def test_few_fields_are_seldom_taken_for_what_they_are_not(n):
    for trial in range(40):
        torus = power_law(n, 32, 1.0, seed=trial)
        patch = power_law(n, 64, 1.0, seed=trial)[..., :32, :32]
        assert fitting_basis(torus) != "cosine"
        assert fitting_basis(patch) != "periodic"
