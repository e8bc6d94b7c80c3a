"""Starts of the reverse process from noise and from diffused fields, and the loop over batches."""

import numpy as np
import pytest
import torch

from skild_physics import kspace
from skild_physics.config import load_config
from skild_physics.diffusion.observation import observed
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import diffused, nothing, prior, sample, starting_step
from skild_physics.diffusion.sampler import SAMPLERS, Multistep, sampler_of
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.fields.downsampling import downsample


def power_law(N, basis="periodic", alpha=0.875):
    return torch.tensor((kspace.wavenumbers(N, basis) ** 2 + 2) ** -alpha) * N**2


def process_of(N, resolution, basis="periodic", k_c=0.0):
    return Process(power_law(N, basis), linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def test_starting_step_has_the_resolution_of_the_input():
    process = process_of(32, 8)
    assert starting_step(process, 4, 0.1) == pytest.approx(1000)
    n = starting_step(process, 2.5, 0.1)
    k2 = 2 * (np.pi * 32 / 2.5) ** 2
    abar = np.exp(-k2 * float(process.lam(n)))
    assert abar / (1 - abar) == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(ValueError, match=r"`factor` must be at least 1, got 0\.5"):
        starting_step(process, 0.5, 0.1)
    with pytest.raises(ValueError, match="at most 4"):
        starting_step(process, 8, 0.1)
    # k_c leaves nothing at less than 31.2 / (sqrt(2) pi) pixels
    config = load_config("cifar10-log-linear")
    process = config.process.build(*config.process.modes())
    assert process.largest_snr(starting_step(process, 4.55, 1e-4)) > 1e-4
    with pytest.raises(ValueError, match=r"at most 4\.56, beyond which k_c leaves"):
        starting_step(process, 4.6, 1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_results_do_not_depend_on_the_batch(sampler):
    process = process_of(8, 2)
    truth = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()
    denoise = gaussian(1.5 * process.S0).denoiser(process)
    coarse = downsample(truth, "box", 4, "periodic")
    whole = Process(process.S0, linear_to_resolution(8, 0.3, 9, 0.1), "periodic", k_c=3.0)
    for start, given in (
        (diffused(process, denoise, 3.2, 0.1), truth),
        (observed(process, denoise, 4, "box", 0.1), coarse),
        (prior(whole, gaussian(whole.S0).denoiser(whole)), nothing(7)),
    ):
        runs = [sample(start, given, sampler_of(sampler, n_evals=5), 4, b) for b in (1, 3, 7)]
        for run in runs[1:]:
            torch.testing.assert_close(run.start, runs[0].start, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(run.result, runs[0].result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_zero_mode_comes_back_exactly(sampler):
    """It is not attenuated (k_c = 0); box averages hold it exactly too."""
    process = process_of(8, 2)
    truth = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).sign()

    def zeros(x, n):
        return torch.zeros_like(x)

    how = sampler_of(sampler, n_evals=6)
    made = sample(diffused(process, zeros, 4, 0.1), truth, how)
    torch.testing.assert_close(made.result.mean((2, 3)), truth.mean((2, 3)), atol=1e-6, rtol=0)
    coarse = downsample(truth, "box", 4, "periodic")
    made = sample(observed(process, zeros, 4, "box", 0.1), coarse, how)
    torch.testing.assert_close(made.result.mean((2, 3)), truth.mean((2, 3)), atol=1e-5, rtol=0)


def test_generation_from_nothing_returns_the_data():
    """Gaussian data of another spectrum than S0, and all modes at once."""
    process = Process(power_law(8), linear_to_resolution(8, 0.3, 9, 0.1), "periodic", k_c=3.0)
    D = process.S0 * torch.tensor(np.random.default_rng(0).uniform(0.5, 1.5, size=(8, 8)))
    # the last evaluation returns a mean, which lacks 1/SNR of the variance
    start = prior(process, gaussian(D).denoiser(process))
    made = sample(start, nothing(4000), Multistep(60, last_snr=200.0), batch_size=4000)
    x_0 = kspace.forward(made.result.double(), "periodic")
    ratio = (x_0.square().mean(0)[0] / D).numpy()
    assert np.abs(ratio - 1).max() < 4.8 * np.sqrt(2 / 4000) + 0.02


def test_starts_say_where_they_are():
    process = process_of(16, 4)
    start = diffused(process, gaussian(process.S0).denoiser(process), 2.5, 0.1)
    assert start.n == starting_step(process, 2.5, 0.1)
    assert start.resolution == pytest.approx(16 / 2.5)
    assert (start.size, start.snr, start.residual) == (16, 0.1, None)
    first = prior(process, gaussian(process.S0).denoiser(process))
    assert (first.n, first.size, first.snr) == (1000, 16, None)
    assert first.resolution == pytest.approx(4)


def test_the_loop_says_how_far_it_is():
    process, told = process_of(8, 2), []
    start = prior(process, gaussian(process.S0).denoiser(process))
    made = sample(start, nothing(7, 2), Multistep(2), batch_size=3, progress=told.append)
    assert made.start.shape == made.result.shape == (7, 2, 8, 8)
    assert told == [3, 6, 7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: sample(diffused(p, None, 2, 0.1), torch.zeros(1, 1, 6, 6), Multistep()),
            "the fields are 6 x 6, the model is for 8 x 8",
        ),
        (lambda p: sample(prior(p, None), nothing(1), Multistep(), batch_size=0), "batch_size"),
        (lambda p: sample(prior(p, None), nothing(0), Multistep()), "number of samples"),
        (lambda p: diffused(p, None, float("nan"), 0.1), "`factor` must be at least 1"),
        (lambda p: diffused(p, None, 8, 0.1), "`factor` must be at most 4"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(process_of(8, 2))
