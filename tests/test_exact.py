import numpy as np
import pytest

from skild_physics.observables.exact import BETA_CRITICAL, ENERGY_CRITICAL, torus_energy

# Kaufman's solution in 60-digit arithmetic
CRITICAL = {
    4: -1.565623787640,
    8: -1.491589107440,
    16: -1.453064852810,
    32: -1.433658466150,
    64: -1.423938389830,
    128: -1.419076272080,
}


@pytest.mark.parametrize(("L", "energy"), CRITICAL.items())
def test_critical_torus(L, energy):
    assert torus_energy(L, BETA_CRITICAL) == pytest.approx(energy, abs=1e-11)


@pytest.mark.parametrize("L", [3, 4])
@pytest.mark.parametrize("beta", [0.02, 0.3, 0.44, BETA_CRITICAL, 0.45, 0.7, 3.0])
def test_enumeration(L, beta):
    states = np.arange(2 ** (L * L))
    s = 1 - 2 * ((states[:, None] >> np.arange(L * L)) & 1).reshape(-1, L, L)
    E = -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2))
    weight = np.exp(-beta * (E - E.min()))
    assert torus_energy(L, beta) == pytest.approx(
        (weight * E).sum() / weight.sum() / L**2, rel=1e-12
    )


def test_large_lattices_approach_the_infinite_one():
    gaps = [torus_energy(L, BETA_CRITICAL) - ENERGY_CRITICAL for L in (256, 512, 1024)]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=1e-4)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=1e-4)
    assert torus_energy(1024, 2.0) == pytest.approx(-2, abs=1e-5)
    assert torus_energy(1024, 1e-3) == pytest.approx(-2e-3, rel=1e-5)


@pytest.mark.parametrize(("L", "beta"), [(2, 0.4), (8, 0.0), (8, -1.0), (8, np.nan), (8, np.inf)])
def test_bad_input(L, beta):
    with pytest.raises(ValueError, match="must be"):
        torus_energy(L, beta)
