"""Shipped configurations are those of the papers, and ours differ where they say they do."""

import math

import numpy as np
import pytest
import torch

from skild_physics.config import load_config, parse_config, shipped_names
from skild_physics.config.process import LawConfig
from skild_physics.diffusion.scale_space import level_ends
from skild_physics.diffusion.schedule import LinearSchedule
from skild_physics.files import InputError
from skild_physics.kspace import normalization_factor, wavenumbers
from skild_physics.training.trainer import learning_rate

# of arXiv 2605.26032: size, C, k0^2, alpha, lambda_i, lambda_f, theta, k_c, tau, parameters
PUBLISHED = {
    "cifar10-linear": (
        *(32, 0.91001, 1.940556, 1.051304),
        *(137.7294, 1.57, 5.0, 3.0, 1e-4, 429_738_755),
    ),
    "cifar10-log-linear": (
        *(32, 0.91001, 1.940556, 1.051304),
        *(-3.75, -2.0, None, 31.2, 1e-4, 429_738_755),
    ),
    "imagenet256-x4": (
        *(256, 0.93221, 1.570796, 1.059750),
        *(1132.9352, 550.8723, 9.0, 0.0, 0.1, 121_124_867),
    ),
    "imagenet128-x4": (
        *(128, 0.90617, 1.570796, 1.061318),
        *(564.2461, 275.4361, 9.0, 0.0, 0.1, 121_124_867),
    ),
    "imagenet128-x8": (
        *(128, 0.90617, 1.570796, 1.061318),
        *(564.2461, 102.6489, 5.0, 0.0, 0.1, 121_124_867),
    ),
    "ising128-x4": (
        *(128, 0.26641, 3.0, 0.811056),
        *(564.2461, 275.4361, 9.0, 0.0, 0.1, 121_124_867),
    ),
}
# learning rate, warm-up, weight decay, batch, average
OPTIMISATION = {"cifar10": (2e-4, 5000, 0.0, 128, 0.999)}
OTHERS = (1e-4, 1000, 1e-5, 256, 0.9999)
# epochs and fields, as the released configurations have them
EPOCHS = {"cifar10": (1000, 50_000), "imagenet": (100, 1_281_167), "ising": (285, 90_000)}
RESOLUTIONS = {
    "imagenet256-x4": 64,
    "imagenet128-x4": 32,
    "imagenet128-x8": 16,
    "ising128-x4": 32,
}


OURS = ("ising64", "ising64-sr3")
COARSE = "ising64-coarse"
LAW = {"C": 0.5, "k0_squared": 3.0, "alpha": 0.9}


# of arXiv 2603.08709 and of the released weights: sides, last steps of levels, parameters, steps
SCALE_SPACE = {
    "celeba64-ddpm": ((64,), (1000,), 92_025_731, 1_000_000),
    "celeba64-ssd": ((64, 32), (750, 1000), 92_256_131, 1_000_000),
    "celeba64-ssd4": ((64, 32, 16, 8), (438, 750, 937, 1000), 92_256_131, 1_000_000),
    "celeba128-ssd3": ((128, 64, 32), (555, 889, 1000), 95_228_163, 300_000),
    "celeba128-ssd5": ((128, 64, 32, 16, 8), (360, 640, 840, 960, 1000), 95_228_163, 300_000),
    "celeba256-ssd3": ((256, 128, 64), (555, 889, 1000), 124_250_883, 300_000),
    "celeba256-ssd6": (
        *((256, 128, 64, 32, 16, 8), (306, 555, 750, 889, 972, 1000)),
        *(124_250_883, 300_000),
    ),
    "imagenet64-ssd": ((64, 32), (750, 1000), 92_256_131, 1_000_000),
}
LATTICES = [
    ("ising64-ssd", (64, 32, 16, 8), (438, 750, 937, 1000)),
    ("ising64-ddpm", (64,), (1000,)),
]


def test_published_configurations_are_those_of_the_paper():
    lattices = [name for name, *_ in LATTICES]
    names = [*PUBLISHED, *OURS, COARSE, *SCALE_SPACE, *lattices, "photographs64"]
    assert shipped_names() == sorted(names)


def test_ising64_and_its_baseline_differ_in_the_method_alone():
    ours, sr3 = (load_config(name) for name in OURS)
    assert ours.network == sr3.network
    assert ours.data == sr3.data
    assert sr3.condition is not None
    method = {"prediction": "eps", "snr_threshold": None}
    assert ours.training.model_copy(update=method) == sr3.training


def test_one_network_for_coarse_fields_of_any_factor():
    config = load_config(COARSE)
    assert config.condition.sides(64) == tuple(range(4, 43))
    assert config.process == load_config("ising64").process
    process = config.process.model_copy(
        update={"spectrum": None, "law": LawConfig(**LAW, size=64, basis="periodic")}
    )
    network = config.build_network(process.build(*process.modes()), 1)
    assert sum(p.numel() for p in network.parameters()) == 399_908


def test_predictions_in_pixels_want_an_orthonormal_output():
    """Of the published ablations; a checkpoint that says otherwise is still read."""
    asked = "training.prediction={}"
    for prediction in ("x0", "xprev", "w"):
        with pytest.raises(InputError, match=r"-x4: .* network\.output = 'orthonormal'"):
            load_config("imagenet128-x4", (asked.format(prediction),))
        pixels = (asked.format(prediction), "network.output=orthonormal")
        config = load_config("imagenet128-x4", pixels)
        assert parse_config(config.to_json()) == config
    assert load_config("imagenet128-x4", (asked.format("v"),)).network.output == "paper"
    older = config.to_json()
    older["network"]["output"] = "paper"
    assert parse_config(older).network.output == "paper"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration(name):
    size, C, k0_squared, alpha, lambda_i, lambda_f, theta, k_c, tau, parameters = PUBLISHED[name]
    config = load_config(name)
    process = config.process.build(*config.process.modes())
    assert process.basis == "cosine"
    assert (process.N, process.k_c, process.T) == (size, k_c, 1000)
    assert config.process.snr == tau
    law = C * (wavenumbers(size, "cosine") ** 2 + k0_squared) ** -alpha
    paper = process.S0.numpy() * normalization_factor(size, "cosine") ** 2
    np.testing.assert_allclose(paper, law, rtol=1e-12)

    t = np.array([0.001, 0.25, 0.5, 1.0])
    if theta is None:
        lam = t * 10 ** (lambda_i + (lambda_f - lambda_i) * t)
    else:
        lam = theta * t / (lambda_i * (1 - t) + lambda_f) ** 2
    np.testing.assert_allclose(process.lam(torch.tensor(1000 * t)), lam, rtol=1e-12)
    left = float(process.resolution(1000, tau))
    if name in RESOLUTIONS:
        assert left == pytest.approx(RESOLUTIONS[name], rel=2e-6)
    elif name == "cifar10-linear":
        assert left < 1
    else:
        # its cutoff k_c takes all modes below along: the signal-to-noise ratio of each is below tau
        assert math.exp(-(k_c**2) * lam[-1]) < tau

    with torch.device("meta"):
        network = config.build_network(process, 3)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.factor is not None
    assert network.schedule == process.schedule
    if theta is not None:
        assert network.schedule == LinearSchedule(lambda_i, lambda_f, theta)

    training = config.training
    assert training.prediction == "eps"
    assert not training.shell_weight
    assert training.timesteps == "uniform"
    assert training.clip == 1.0
    found = (
        training.learning_rate,
        training.warmup_steps,
        training.weight_decay,
        training.batch_size,
        training.ema,
    )
    assert found == OPTIMISATION.get(name.split("-")[0], OTHERS)
    assert learning_rate(training, training.steps - 1) == training.learning_rate
    epochs, fields = next(each for data, each in EPOCHS.items() if name.startswith(data))
    assert training.steps == epochs * (fields // training.batch_size)


@pytest.mark.parametrize(("name", "sizes", "ends"), LATTICES)
def test_lattices_in_scale_space(name, sizes, ends):
    settings = load_config(name).process
    assert settings.sizes == sizes
    assert level_ends(len(sizes), settings.T, settings.levels.gamma) == ends
    abar = np.exp(-float(settings.schedule.exponent(settings.T).lam(1.0)))
    betas = np.linspace(1e-4, 0.02, 1000)
    assert np.log(abar) == pytest.approx(np.log1p(-betas).sum(), rel=0.01)


@pytest.mark.parametrize("name", SCALE_SPACE)
def test_published_scale_space(name):
    sizes, ends, parameters, steps = SCALE_SPACE[name]
    config = load_config(name)
    space = config.process.space()
    assert (space.sizes, space.ends, space.degradation) == (sizes, ends, "bilinear")
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for n in (1, 2, ends[0], 1000):
        assert np.exp(-space.u(n)) == pytest.approx(abar[n - 1], rel=1e-12)
    chain = config.process
    assert chain.clip
    if len(sizes) > 1:
        assert (chain.change_takes, chain.ends_at, chain.draw) == (1, 1, False)

    process = chain.build(*chain.modes())
    config.check_sizes(process.N, process.N)
    with torch.device("meta"):
        network = config.build_network(process, 3)
    assert sum(p.numel() for p in network.parameters()) == parameters

    training = config.training
    assert (training.prediction, training.min_snr, training.steps) == ("x0", 5, steps)
    if len(sizes) > 1:
        assert training.level_changes == pytest.approx((len(sizes) - 1) / 1000)
    for step in (0, steps - 1):
        assert learning_rate(training, step) == training.learning_rate == 1e-4
    assert (training.ema, training.weight_decay, training.clip) == (0.9999, 0, math.inf)
