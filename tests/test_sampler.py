"""Samplers: their knobs, what they say of themselves, and the integrators behind them."""

from dataclasses import FrozenInstanceError

import pytest
import torch

import skild_physics as sk
from skild_physics import kspace
from skild_physics.diffusion.integrators import ancestral, multistep, step_grid
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.oracle import gaussian
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.sampler import SAMPLERS, Sampler, sampler_of
from skild_physics.diffusion.schedule import linear_to_resolution
from skild_physics.files import InputError

S0 = torch.tensor((kspace.wavenumbers(8, "periodic") ** 2 + 2) ** -0.8)
PROCESS = Process(S0, linear_to_resolution(8, 1.0, 9, 0.1), "periodic", k_c=2.0)
DENOISE = gaussian(1.5 * S0).denoiser(PROCESS)
START = 800.0


def noise():
    return SampleNoise(3, range(4))


def state():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def steps(*knobs):
    return step_grid(PROCESS, START, *knobs)


@pytest.mark.parametrize(
    ("sampler", "integrated"),
    [
        (
            sk.Multistep(),
            lambda x: multistep(PROCESS, DENOISE, x, steps(20, "log-resolution", 5.0), 2),
        ),
        (
            sk.Multistep(6, "resolution", 30.0, order=3),
            lambda x: multistep(PROCESS, DENOISE, x, steps(6, "resolution", 30.0), 3),
        ),
        (
            sk.Stochastic(6, order=1),
            lambda x: multistep(PROCESS, DENOISE, x, steps(6), 1, 1.0, noise()),
        ),
        (
            sk.Stochastic(6, spacing="time", stochasticity=0.4),
            lambda x: multistep(PROCESS, DENOISE, x, steps(6, "time"), 2, 0.4, noise()),
        ),
        (
            sk.Ancestral(6),
            lambda x: ancestral(PROCESS, DENOISE, x, steps(6, "time"), noise()),
        ),
        (
            sk.Ancestral(6, spacing="log-resolution", last_snr=8.0),
            lambda x: ancestral(PROCESS, DENOISE, x, steps(6, "log-resolution", 8.0), noise()),
        ),
    ],
)
def test_a_sampler_is_its_integrator_along_its_own_steps(sampler, integrated):
    made = sampler(PROCESS, DENOISE, state(), START, noise())
    assert torch.equal(made, integrated(state()))


def test_a_stochastic_sampler_without_noise_is_the_flow():
    knobs = {"n_evals": 7, "spacing": "resolution", "last_snr": 9.0, "order": 3}
    silent, flow = sk.Stochastic(**knobs, stochasticity=0.0), sk.Multistep(**knobs)
    made = [each(PROCESS, DENOISE, state(), START, noise()) for each in (silent, flow)]
    assert torch.equal(*made)
    noisy = sk.Stochastic(**knobs)(PROCESS, DENOISE, state(), START, noise())
    assert not torch.equal(noisy, made[0])


def test_an_evaluation_is_one_of_the_network():
    for sampler in (sk.Multistep(9), sk.Stochastic(9), sk.Ancestral(9)):
        asked = []

        def denoise(x, n, asked=asked):
            asked.append(n)
            return DENOISE(x, n)

        sampler(PROCESS, denoise, state(), START, noise())
        assert len(asked) == 9
        assert asked[0] == START


DESCRIBED = [
    (
        sk.Multistep(),
        {"sampler": "multistep", "n_evals": 20, "order": 2, "spacing": "log-resolution"},
        5.0,
    ),
    (
        sk.Multistep(8, "resolution", 30.0, order=3),
        {"sampler": "multistep", "n_evals": 8, "order": 3, "spacing": "resolution"},
        30.0,
    ),
    (
        sk.Multistep(1),
        {"sampler": "multistep", "n_evals": 1, "order": 2, "spacing": "log-resolution"},
        None,
    ),
    (
        sk.Stochastic(40, order=1),
        {"sampler": "stochastic", "n_evals": 40, "order": 1, "spacing": "log-resolution"},
        10.0,
    ),
    (
        sk.Ancestral(),
        {"sampler": "ancestral", "n_evals": 1000, "order": None, "spacing": "time"},
        None,
    ),
    (
        sk.Ancestral(12, "log-resolution"),
        {"sampler": "ancestral", "n_evals": 12, "order": None, "spacing": "log-resolution"},
        3.0,
    ),
]


@pytest.mark.parametrize(("sampler", "words", "last_snr"), DESCRIBED)
def test_what_a_sampler_says_of_itself(sampler, words, last_snr):
    said = sampler.describe()
    assert {name: said[name] for name in words} == words
    assert said["last_snr"] == last_snr
    assert isinstance(sampler, Sampler)
    assert sampler.name == words["sampler"]


def test_how_stochastic_a_sampler_is_can_be_read():
    assert sk.Stochastic(stochasticity=0.3).describe()["stochasticity"] == 0.3
    assert sk.Stochastic().describe()["stochasticity"] == 1.0
    assert sk.Multistep().describe().get("stochasticity") is None


def test_samplers_are_values():
    assert sk.Multistep(5) == sk.Multistep(n_evals=5)
    assert sk.Multistep(5) != sk.Stochastic(5)
    with pytest.raises(FrozenInstanceError):
        sk.Multistep().n_evals = 3


def test_samplers_by_name_have_their_own_defaults():
    assert sampler_of("multistep") == sk.Multistep()
    assert sampler_of("stochastic", n_evals=7, order=None) == sk.Stochastic(7)
    assert sampler_of("ancestral", n_evals=None, spacing="resolution") == sk.Ancestral(
        spacing="resolution"
    )
    assert set(SAMPLERS) == {"multistep", "stochastic", "ancestral"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sk.Multistep(0), "`n_evals` must be at least 1, got 0"),
        (lambda: sk.Ancestral(-3), "`n_evals` must be at least 1, got -3"),
        (lambda: sk.Multistep(spacing="even"), "`spacing` must be one of .*'even'"),
        (lambda: sk.Multistep(order=0), "`order` must be 1, 2 or 3, got 0"),
        (lambda: sk.Stochastic(order=4), "`order` must be 1, 2 or 3, got 4"),
        (lambda: sk.Stochastic(stochasticity=-0.5), "`stochasticity` must not be negative"),
        (lambda: sk.Stochastic(stochasticity=float("nan")), "`stochasticity` must not be neg"),
        (lambda: sk.Multistep(last_snr=0.0), "`last_snr` must be positive"),
        (lambda: sk.Stochastic(last_snr=float("inf")), "`last_snr` must be positive"),
        (lambda: sk.Multistep(last_snr=9.0, spacing="time"), "`last_snr`.*spacing=time"),
        (lambda: sk.Multistep(1, last_snr=9.0), "`last_snr`.*several `n_evals`"),
        (lambda: sk.Ancestral(last_snr=9.0), "`last_snr`"),
        (lambda: sampler_of("euler"), "one of multistep, stochastic, ancestral, got 'euler'"),
        (lambda: sampler_of("ancestral", order=2), "`order`.*multistep and stochastic"),
        (lambda: sampler_of("multistep", stochasticity=0.5), "`stochasticity`.*stochastic"),
    ],
)
def test_bad_knobs_are_named_when_they_are_set(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_step_beyond_the_process_is_named():
    for sampler in (sk.Multistep(3), sk.Ancestral(3)):
        with pytest.raises(InputError, match="start must lie above 0"):
            sampler(PROCESS, DENOISE, state(), 1001.0, noise())
