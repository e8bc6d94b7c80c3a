import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import processes

from skild_physics import kspace
from skild_physics.diffusion.prediction import PREDICTIONS, estimate_x0, target
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SampleNoise, multistep, step_grid
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.diffusion.superresolution import starting_step, super_resolve_paired


@given(processes(), st.sampled_from(PREDICTIONS), st.integers(0, 2**31))
def test_a_perfect_prediction_gives_x0(process, prediction, seed):
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 3, process.N, process.N, generator=generator, dtype=torch.float64)
    n = max(1, process.T // 3)
    marginal = process.marginal(n)
    x_n = marginal.alpha * x_0 + marginal.sigma * eps
    output = target(prediction, x_0, eps, marginal, process.S0)
    estimate = estimate_x0(prediction, output, x_n, marginal)
    resolved = (marginal.alpha > 1e-3).expand_as(x_0)
    torch.testing.assert_close(estimate[resolved], x_0[resolved], rtol=1e-8, atol=1e-8)


@given(processes(), st.integers(1, 1000))
def test_whitened_v_has_unit_variance(process, n):
    n = min(n, process.T)
    alpha, sigma = process.marginal(n)
    variance = alpha**2 + (sigma / process.S0) ** 2 * process.S0
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-12, atol=0)


def gaussian_denoiser(process: Process, D: torch.Tensor):
    """E[x_0 | x_n] for independent modes x_0 ~ N(0, D)."""

    def denoise(x, n):
        alpha, sigma = process.marginal(n)
        return alpha * D / (alpha**2 * D + sigma**2) * x

    return denoise


def test_multistep_is_second_order_on_the_exact_flow():
    """For x_0 ~ N(0, D) the probability flow scales every mode by sqrt(Var x_m / Var x_n)."""
    S0 = torch.tensor((kspace.wavenumbers(8, "periodic") ** 2 + 2) ** -0.8)
    D = S0 * torch.tensor(np.random.default_rng(3).lognormal(0, 1, size=(8, 8)))
    process = Process(S0, linear_to_resolution(8, 1, 9, 0.1), "periodic", k_c=2.0)
    start, stop = 900.0, 30.0

    def variance(n):
        alpha, sigma = process.marginal(n)
        return alpha**2 * D + sigma**2

    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    exact = x * torch.sqrt(variance(stop) / variance(start))
    errors = []
    for calls in (40, 80, 160, 320):
        grid = torch.linspace(start, stop, calls + 1, dtype=torch.float64)
        ours = multistep(process, gaussian_denoiser(process, D), x, grid)
        errors.append(float((ours / exact - 1).abs().max()))
    orders = -np.diff(np.log2(errors))
    assert orders[-1] == pytest.approx(2, abs=0.25)
    assert errors[-1] < 1e-3


def test_multistep_leaves_matched_gaussian_fields_alone():
    """With Var x_0 = S0 the probability flow does not move at all."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(1000, 20, 200, dtype=torch.float64)
    ours = multistep(process, gaussian_denoiser(process, process.S0), x, grid)
    torch.testing.assert_close(ours, x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("sampler", ["multistep", "ancestral"])
def test_super_resolution_does_not_depend_on_the_batch(sampler):
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    truth = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()
    denoise = gaussian_denoiser(process, 1.5 * process.S0)
    runs = [
        super_resolve_paired(process, denoise, truth, 3.2, 0.1, 5, sampler, seed=4, batch_size=b)
        for b in (1, 3, 7)
    ]
    for run in runs[1:]:
        torch.testing.assert_close(run.start, runs[0].start, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(run.result, runs[0].result, rtol=1e-5, atol=1e-5)


def test_super_resolution_keeps_the_magnetisation():
    """The zero mode is not attenuated (k_c = 0), so it comes back exactly."""
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    truth = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()
    for sampler in ("multistep", "ancestral"):
        made = super_resolve_paired(
            process, lambda x, n: torch.zeros_like(x), truth, 4, 0.1, 6, sampler
        )
        torch.testing.assert_close(made.result.mean((2, 3)), truth.mean((2, 3)), atol=1e-6, rtol=0)


def test_starting_step_has_the_resolution_of_the_input():
    process = Process(torch.ones(32, 32), linear_to_resolution(32, 8, 9, 0.1), "periodic")
    assert starting_step(process, 4, 0.1) == 1000
    n = starting_step(process, 2.5, 0.1)
    k2 = 2 * (np.pi * 32 / 2.5) ** 2
    abar = np.exp(-k2 * float(process.lam(n)))
    assert abar / (1 - abar) == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(ValueError, match=r"factor must be at least 1, got 0\.5"):
        starting_step(process, 0.5, 0.1)
    with pytest.raises(ValueError, match="at most 4"):
        starting_step(process, 8, 0.1)


def test_bad_input_is_named():
    process = Process(torch.ones(8, 8), linear_to_resolution(8, 2, 9, 0.1), "periodic")
    with pytest.raises(ValueError, match="6 x 6"):
        super_resolve_paired(process, lambda x, n: x, torch.zeros(1, 1, 6, 6), 2, 0.1)
    with pytest.raises(ValueError, match="steps"):
        super_resolve_paired(process, lambda x, n: x, torch.zeros(1, 1, 8, 8), 2, 0.1, steps=0)
    with pytest.raises(ValueError, match="euler"):
        super_resolve_paired(
            process, lambda x, n: x, torch.zeros(1, 1, 8, 8), 2, 0.1, sampler="euler"
        )


def test_streams_of_different_samples_differ():
    draws = SampleNoise(1, [0, 1, 5]).like(torch.empty(3, 4, 4))
    assert not torch.equal(draws[0], draws[1])
    again = SampleNoise(1, [5]).like(torch.empty(1, 4, 4))
    assert torch.equal(draws[2], again[0])
    assert step_grid(10, 2).tolist() == [10, 5, 0]
