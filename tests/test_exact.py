import numpy as np
import pytest

from skild_physics.observables.exact import (
    BETA_CRITICAL,
    diagonal_correlator,
    energy,
    spontaneous_magnetization,
    torus_energy,
    torus_log_partition,
    torus_specific_heat,
)

# Kaufman's solution in 60-digit arithmetic
CRITICAL = {
    4: -1.565623787640,
    8: -1.491589107440,
    16: -1.453064852810,
    32: -1.433658466150,
    64: -1.423938389830,
    128: -1.419076272080,
}
BETAS = [0.0, 0.02, 0.3, 0.44, BETA_CRITICAL, 0.45, 0.7, 2.0]


@pytest.mark.parametrize(("L", "exact"), CRITICAL.items())
def test_critical_torus(L, exact):
    assert torus_energy(L, BETA_CRITICAL) == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize(
    ("L", "beta"), [*((L, beta) for L in (3, 4) for beta in BETAS), *((4, -beta) for beta in BETAS)]
)
def test_enumeration(L, beta):
    states = np.arange(2 ** (L * L))
    s = 1 - 2 * ((states[:, None] >> np.arange(L * L)) & 1).reshape(-1, L, L)
    E = -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2))
    lowest = (beta * E).min()
    weight = np.exp(lowest - beta * E)
    mean = (weight * E).sum() / weight.sum()
    variance = (weight * (E - mean) ** 2).sum() / weight.sum()
    log_Z = np.log(weight.sum()) - lowest
    assert torus_log_partition(L, beta) == pytest.approx(log_Z, rel=1e-13)
    assert torus_energy(L, beta) == pytest.approx(mean / L**2, rel=1e-12, abs=1e-15)
    assert torus_specific_heat(L, beta) == pytest.approx(beta**2 * variance / L**2, rel=1e-8)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("L", [5, 64, 1024])
def test_derivatives_of_the_partition_function(L, beta):
    """Energy and specific heat against differences of ln Z, at any size without overflow."""
    if not beta:
        pytest.skip("differences would be of a negative beta, which no odd torus has")
    h = 1e-4 if L < 1024 else 1e-6
    f = [torus_log_partition(L, beta + i * h) for i in (-1, 1)]
    assert torus_energy(L, beta) == pytest.approx(-(f[1] - f[0]) / (2 * h) / L**2, rel=1e-5)
    e = [torus_energy(L, beta + i * h) for i in (-1, 1)]
    expected = -(beta**2) * (e[1] - e[0]) / (2 * h)
    assert torus_specific_heat(L, beta) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_torus_approaches_the_infinite_lattice():
    assert energy(BETA_CRITICAL) == pytest.approx(-np.sqrt(2), abs=1e-10)
    gaps = [torus_energy(L, BETA_CRITICAL) - energy(BETA_CRITICAL) for L in (256, 512, 1024)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=1e-4)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=1e-4)
    for beta in (0.01, 0.3, 0.42, 0.46, 0.6, 2.0):
        assert torus_energy(512, beta) == pytest.approx(energy(beta), rel=1e-9)
    # the specific heat of the critical torus grows like (8 K^2 / pi) ln L
    growth = torus_specific_heat(1024, BETA_CRITICAL) - torus_specific_heat(512, BETA_CRITICAL)
    assert growth == pytest.approx(8 * BETA_CRITICAL**2 / np.pi * np.log(2), rel=1e-3)


def test_spontaneous_magnetisation():
    assert spontaneous_magnetization(BETA_CRITICAL) == 0
    assert spontaneous_magnetization(0.3) == 0
    assert spontaneous_magnetization(0.6) == pytest.approx(
        (1 - np.sinh(1.2) ** -4) ** 0.125, rel=1e-14
    )
    # low-temperature series 1 - 2 x^4 - 8 x^6 - 34 x^8 with x = exp(-2 beta)
    x = np.exp(-2 * 1.2)
    assert spontaneous_magnetization(1.2) == pytest.approx(
        1 - 2 * x**4 - 8 * x**6 - 34 * x**8, abs=5e-8
    )


def test_diagonal_correlator():
    assert diagonal_correlator(1, BETA_CRITICAL) == pytest.approx(2 / np.pi, rel=1e-14)
    assert diagonal_correlator(2, BETA_CRITICAL) == pytest.approx(16 / (3 * np.pi**2), rel=1e-14)
    # decay r^(-1/4) with r = sqrt(2) n and the amplitude of Wu (1966)
    n = 400
    amplitude = 0.70338016
    expected = amplitude / (np.sqrt(2) * n) ** 0.25
    assert diagonal_correlator(n, BETA_CRITICAL) == pytest.approx(expected, rel=1e-6)
    # both sides join at the critical point
    for n in (0, 1, 2, 7):
        sides = [diagonal_correlator(n, BETA_CRITICAL + d) for d in (-1e-5, 1e-5)]
        assert np.mean(sides) == pytest.approx(diagonal_correlator(n, BETA_CRITICAL), rel=1e-6)
    # far apart below the critical temperature only the magnetisation is left
    assert diagonal_correlator(60, 0.6) == pytest.approx(spontaneous_magnetization(0.6) ** 2)
    # high-temperature series of two steps, 2 t^2 + 4 t^4 with t = tanh(beta)
    t = np.tanh(0.05)
    assert diagonal_correlator(1, 0.05) == pytest.approx(2 * t**2 + 4 * t**4, rel=1e-4)


@pytest.mark.parametrize(("L", "beta"), [(2, 0.4), (7, -1.0), (8, np.nan), (8, np.inf)])
def test_bad_input(L, beta):
    with pytest.raises(ValueError, match="must be"):
        torus_energy(L, beta)
