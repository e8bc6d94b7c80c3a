"""The exact denoiser of the Ising model against enumeration, and samplers that run with it."""

from itertools import product

import numpy as np
import pytest
import torch

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.ising_posterior import IsingPosterior
from skild_physics.diffusion.process import Process, white_process
from skild_physics.diffusion.reverse import diffused, sample
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.files import InputError
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL

STATES = np.array(list(product((-1, 1), repeat=16)), np.int8).reshape(-1, 4, 4)


def process_of(L, power=1.75):
    """With a spectrum like that of critical fields."""
    k = np.maximum(kspace.wavenumbers(L, "periodic"), np.pi)
    S0 = torch.as_tensor(k**-power / (k**-power).mean())
    return Process(S0, linear_to_resolution(L, 0.5, 3.0, 0.1), "periodic", k_c=3.0)


def noisy(process, fields, n, seed):
    x_0 = kspace.forward(torch.as_tensor(fields, dtype=torch.float64), "periodic")[:, None]
    alpha, sigma = process.marginal(n)
    noise = torch.randn(
        x_0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return alpha * x_0 + sigma * noise


@pytest.mark.parametrize("beta", [BETA_CRITICAL, -0.5])
@pytest.mark.parametrize("n", [300, 600, 1000])
def test_the_mean_is_that_of_all_states(n, beta):
    """Chains of their own give its error."""
    process = process_of(4)
    x = noisy(process, STATES[[1234 * 7]], n, n)
    alpha, sigma = (c.numpy() for c in process.marginal(n))
    modes = kspace.forward(STATES.astype(np.float64), "periodic")
    log_p = -beta * 16 * energy_per_spin(STATES)
    log_p -= ((x[0].numpy() - alpha * modes) ** 2 / (2 * sigma**2)).sum(axis=(1, 2))
    p = np.exp(log_p - log_p.max())
    wanted = np.tensordot(p / p.sum(), STATES, 1)
    chains = IsingPosterior(beta, sweeps=400, seed=1).given(process, x.repeat(64, 1, 1, 1), n)
    error = chains.mean.std(axis=0) / np.sqrt(63)
    assert (abs(chains.mean.mean(axis=0) - wanted) < 4.5 * error + 1e-9).all()
    # and it is no trivial mean
    assert (1 - wanted**2).max() > 0.02
    # the last spins are draws
    drawn = chains.spins.mean(axis=0)
    spread = np.sqrt(1 - np.minimum(wanted**2, 1) + 1e-3)
    assert (abs(drawn - wanted) < 4.5 * spread / np.sqrt(64) + 0.05).all()


@pytest.mark.parametrize("n", [500, 800])
def test_given_block_sums_the_mean_is_that_of_the_states_that_have_them(n):
    process, truth = process_of(4), STATES[23456]
    sums = STATES.reshape(-1, 2, 2, 2, 2).sum(axis=(2, 4))
    states = STATES[(sums == truth.reshape(2, 2, 2, 2).sum(axis=(1, 3))).all(axis=(1, 2))]
    assert len(states) == 384
    x = noisy(process, truth[None], n, n)
    alpha, sigma = (c.numpy() for c in process.marginal(n))
    log_p = -BETA_CRITICAL * 16 * energy_per_spin(states)
    modes = kspace.forward(states.astype(np.float64), "periodic")
    log_p -= ((x[0].numpy() - alpha * modes) ** 2 / (2 * sigma**2)).sum(axis=(1, 2))
    p = np.exp(log_p - log_p.max())
    wanted = np.tensordot(p / p.sum(), states, 1)
    posterior = IsingPosterior(BETA_CRITICAL, sweeps=400, seed=1)
    start = np.repeat(truth[None], 64, axis=0)
    relaxed = posterior.given(process, x.repeat(64, 1, 1, 1), n, start, (0,), block=2).spins
    found = posterior.given(process, x.repeat(64, 1, 1, 1), n, relaxed, (1,), block=2)
    error = found.mean.std(axis=0) / np.sqrt(63)
    assert (abs(found.mean.mean(axis=0) - wanted) < 4.5 * error + 1e-4).all()
    assert (1 - wanted**2).max() > 0.02
    of_found = found.spins.reshape(-1, 2, 2, 2, 2).sum(axis=(2, 4))
    assert (of_found == truth.reshape(2, 2, 2, 2).sum(axis=(1, 3))).all()


def test_sites_without_coupling_have_a_tanh():
    """White noise at beta = 0, from a single sweep."""
    process = white_process(6, linear_to_resolution(6, 0.5, 3.0, 0.1), "periodic")
    spins = np.random.default_rng(0).choice([-1.0, 1.0], (3, 6, 6))
    x = noisy(process, spins, 300, 0)
    alpha, sigma = (float(c[0, 0]) for c in process.marginal(300))
    estimate = IsingPosterior(0.0, sweeps=1).denoiser(process)(x, 300)
    fields = kspace.inverse(x, "periodic")
    wanted = torch.tanh(alpha * fields / sigma**2)
    torch.testing.assert_close(kspace.inverse(estimate, "periodic"), wanted)


def test_true_fields_are_draws_of_the_posterior():
    """Chains from them and from the signs of the site field agree, and results repeat."""
    truth = sk.generate_ising(L=16, samples=100, seed=2).values
    process = process_of(16)
    n = process.step_at_resolution(6, 0.1)
    x = noisy(process, truth, n, 1)
    posterior = IsingPosterior(BETA_CRITICAL, sweeps=20)
    made = posterior.given(process, x, n, truth)
    cold = posterior.given(process, x, n)
    for each in (made, cold):
        away = energy_per_spin(each.spins) - energy_per_spin(truth)
        assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(100)
        # E s_true m = E m m', of two chains
        away = (each.mean * truth).mean((1, 2)) - (made.mean * cold.mean).mean((1, 2))
        assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(100)
    np.testing.assert_array_equal(posterior.given(process, x, n).mean, cold.mean)
    other = posterior.given(process, x, n, truth, stream=(1,))
    assert (other.mean != made.mean).any()


def test_what_cannot_be_is_refused():
    process, posterior = process_of(4), IsingPosterior(0.4, sweeps=2)
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    uneven = process.S0.clone()
    uneven[1] *= 1.1
    cases = [
        (process, torch.zeros(1, 2, 4, 4), "shape"),
        (process, torch.zeros(1, 1, 8, 8), "shape"),
        (Process(process.S0, process.schedule, "cosine", 3.0), x, "torus"),
        (Process(process.S0, process.schedule, "periodic", 0.0), x, "modes without noise"),
        (Process(uneven, process.schedule, "periodic", 3.0), x, "translations mix"),
    ]
    for other, modes, said in cases:
        with pytest.raises(InputError, match=said):
            posterior.given(other, modes, 500.0)
    for start, block in ((None, 2), (STATES[:1], 3), (STATES[:1], 0)):
        with pytest.raises(InputError, match="`block`"):
            posterior.given(process, x, 500.0, start, block=block)
    with pytest.raises(InputError, match="`sweeps`"):
        IsingPosterior(0.4, sweeps=0)
    with pytest.raises(InputError, match="`beta`"):
        IsingPosterior(np.nan)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [sk.Multistep(20), sk.Stochastic(30)])
def test_samplers_with_it_make_true_fields(sampler):
    """From an effective resolution of 4 x 4, as the network's protocol does."""
    truth = sk.generate_ising(L=16, samples=256, seed=3).values
    process = process_of(16)
    denoise = IsingPosterior(BETA_CRITICAL, sweeps=100).denoiser(process)
    given = torch.as_tensor(truth, dtype=torch.float64)[:, None]
    made = sample(diffused(process, denoise, 4, 0.1), given, sampler).result.numpy()[:, 0]
    away = energy_per_spin(np.where(made >= 0, 1, -1).astype(np.int8)) - energy_per_spin(truth)
    assert abs(away.mean()) < 4.5 * away.std() / 16 + 0.01
    assert abs(abs(made) - 1).mean() < 0.1
