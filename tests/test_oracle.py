"""Exact denoisers against posterior means by quadrature."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import processes

from skild_physics.diffusion.oracle import GaussianMixture, TwoPoint, gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import linear_to_resolution

SCHEDULE = linear_to_resolution(8, 0.5, 5, 0.01)


def density(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@pytest.mark.parametrize("n", [20, 300, 700, 990])
def test_mixture_of_one_mode_against_quadrature(n):
    process = Process(torch.full((1, 1), 1.7), SCHEDULE, "cosine", k_c=4.0)
    p, mu, D = np.array([0.2, 0.5, 0.3]), np.array([-1.5, 0.3, 2.0]), np.array([0.1, 0.6, 0.02])
    data = GaussianMixture(*(torch.tensor(v) for v in (p, mu[:, None, None], D[:, None, None])))
    alpha, sigma = (float(c) for c in process.marginal(n))
    x_0 = np.linspace(-9, 9, 200_001)
    prior = sum(w * density(x_0, m, v) for w, m, v in zip(p, mu, D, strict=True))
    for x in (-2.0, -0.4, 0.0, 0.9, 3.0):
        posterior = prior * density(x, alpha * x_0, sigma**2)
        ours = data.denoiser(process)(torch.full((1, 1, 1, 1), x, dtype=torch.float64), n)
        assert float(ours) == pytest.approx((posterior * x_0).sum() / posterior.sum(), rel=1e-9)


@pytest.mark.parametrize("n", [30, 400, 900])
def test_what_one_mode_says_about_another_against_quadrature(n):
    """The components agree on the modes (0, 0) and (1, 1), which therefore say nothing."""
    rng = np.random.default_rng(0)
    process = Process(torch.tensor([[1.0, 0.7], [0.4, 0.3]]), SCHEDULE, "cosine", k_c=2.0)
    p = np.array([0.3, 0.7])
    mu = np.array([[[0.1, 1.0], [-0.8, 0.2]], [[0.1, -0.6], [0.9, 0.2]]])
    D = np.array([[[0.5, 0.1], [0.05, 0.3]], [[0.5, 0.2], [0.1, 0.3]]])
    data = GaussianMixture(*(torch.tensor(v) for v in (p, mu, D)))
    alpha, sigma = (c.numpy() for c in process.marginal(n))
    axis = np.linspace(-5, 5, 1001)
    a, b = axis[:, None], axis[None, :]
    prior = sum(
        w * density(a, m[0, 1], v[0, 1]) * density(b, m[1, 0], v[1, 0])
        for w, m, v in zip(p, mu, D, strict=True)
    )
    for _ in range(4):
        x = rng.normal(size=(2, 2))
        posterior = (
            prior
            * density(x[0, 1], alpha[0, 1] * a, sigma[0, 1] ** 2)
            * density(x[1, 0], alpha[1, 0] * b, sigma[1, 0] ** 2)
        )
        posterior /= posterior.sum()
        ours = data.denoiser(process)(torch.tensor(x)[None, None], n)[0, 0]
        assert float(ours[0, 1]) == pytest.approx((posterior * a).sum(), rel=1e-8, abs=1e-10)
        assert float(ours[1, 0]) == pytest.approx((posterior * b).sum(), rel=1e-8, abs=1e-10)
        same = D[0, 0, 0] / (alpha[0, 0] ** 2 * D[0, 0, 0] + sigma[0, 0] ** 2) * alpha[0, 0]
        exact = 0.1 + same * (x[0, 0] - alpha[0, 0] * 0.1)
        assert float(ours[0, 0]) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("n", [20, 300, 700, 990])
def test_two_points_against_the_sum_over_both(n):
    process = Process(torch.full((2, 2), 0.8), SCHEDULE, "cosine", k_c=4.0)
    a = np.array([[0.5, 1.0], [1.3, 2.0]])
    x = np.random.default_rng(1).normal(size=(5, 1, 2, 2))
    alpha, sigma = (c.numpy() for c in process.marginal(n))
    log_odds = ((x + alpha * a) ** 2 - (x - alpha * a) ** 2) / (2 * sigma**2)
    with np.errstate(over="ignore"):
        chance = 1 / (1 + np.exp(-log_odds))
    exact = a * chance - a * (1 - chance)
    ours = TwoPoint(torch.tensor(a)).denoiser(process)(torch.tensor(x), n)
    np.testing.assert_allclose(ours.numpy(), exact, rtol=1e-9, atol=1e-12)


@given(processes(max_size=5), st.floats(0.01, 1), st.integers(0, 2**31))
def test_gaussian_data_has_the_wiener_filter(process, fraction, seed):
    n = fraction * process.T
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 1, process.N, process.N)
    D = process.S0 * torch.rand(shape[2:], generator=generator, dtype=torch.float64) * 2
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    alpha, sigma = process.marginal(n)
    wiener = alpha * D / (alpha**2 * D + sigma**2) * x
    ours = gaussian(D).denoiser(process)(x, n)
    torch.testing.assert_close(ours, wiener, rtol=1e-10, atol=0)


@given(processes(max_size=5), st.floats(0.01, 1))
def test_a_mode_that_nothing_attenuates_is_known(process, fraction):
    still = Process(process.S0, process.schedule, process.basis, 0.0, process.T)
    n = fraction * still.T
    shape = (2, still.N, still.N)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(shape, generator=generator, dtype=torch.float64)
    mixture = GaussianMixture(torch.tensor([0.4, 0.6]).double(), means, still.S0)
    x = torch.randn(4, 1, *shape[1:], generator=generator, dtype=torch.float64)
    for data in (mixture, TwoPoint(still.S0.sqrt())):
        ours = data.denoiser(still)(x, n)
        assert bool(torch.isfinite(ours).all())
        torch.testing.assert_close(ours[..., 0, 0], x[..., 0, 0], rtol=1e-12, atol=1e-12)


def test_samples_have_the_stated_moments():
    generator = torch.Generator().manual_seed(2)
    means = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    D = torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) + 0.1
    data = GaussianMixture(torch.tensor([0.2, 0.3, 0.5]).double(), means, D)
    count = 40_000
    x = data.sample(count, generator)
    assert x.shape == (count, 1, 2, 2)
    centred = x[:, 0] - (data.weights[:, None, None] * means).sum(0)
    for values, exact in ((centred, torch.zeros(2, 2)), (centred.square(), data.variance())):
        away = (values.mean(0) - exact).abs()
        assert bool((away < 4 * values.std(0) / np.sqrt(count)).all())
    a = torch.tensor([[1.0, 2.0], [0.5, 3.0]])
    points = TwoPoint(a).sample(count, generator)
    assert points.shape == (count, 1, 2, 2)
    assert torch.equal(points.abs(), a.expand_as(points))
    assert float((points / a).mean(0).abs().max()) < 4 / np.sqrt(count)
