"""Sampling keeps no graph of gradients, and no cache keeps tensors that refuse gradients."""

import importlib
import pkgutil
from functools import cached_property

import pytest
import torch

import skild_physics
from skild_physics import kspace
from skild_physics.config import parse_config
from skild_physics.config.training import CoarseConfig
from skild_physics.diffusion.adaptive import adaptive_denoiser
from skild_physics.diffusion.betas import BetaSchedule
from skild_physics.diffusion.integrators import ancestral, multistep, step_grid
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.observation import Observation, observed
from skild_physics.diffusion.prediction import denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import rescaled
from skild_physics.diffusion.resize import Resize, resize
from skild_physics.diffusion.reverse import diffused, nothing, prior, sample
from skild_physics.diffusion.sampler import SAMPLERS, Multistep, sampler_of
from skild_physics.diffusion.scale_space import LevelPosterior, ScaleSpace
from skild_physics.diffusion.scale_space_reverse import estimator, level_start
from skild_physics.diffusion.schedule import LinearBetaSchedule, linear_to_resolution
from skild_physics.models.checkpoint import build_model
from skild_physics.models.coarse import Conditions
from skild_physics.networks import CompactUNet, WhitenedInput

COSINE = "cosine"


def process_of(N=8, k_c=3.0):
    S0 = torch.tensor((kspace.wavenumbers(N, COSINE) ** 2 + 2) ** -0.875) * N**2
    return Process(S0, linear_to_resolution(N, 0.4, 9, 0.1), COSINE, k_c)


def space_of():
    return ScaleSpace((8, 4), (500, 1000), LinearBetaSchedule(0.1, 20.0), "box", COSINE)


class Learning(torch.nn.Module):
    """A network of one weight; notes whether gradients were kept when it was called."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1))
        self.kept = []

    def forward(self, x, lam, side=None):
        self.kept.append(torch.is_grad_enabled())
        x = x[:, :1]
        return self.weight * (
            x if side is None else x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        )


def conditional(network):
    config = parse_config(
        {
            "out": ".",
            "data": {"source": "none"},
            "process": {
                "white": {"size": 8, "basis": COSINE},
                "schedule": {"kind": "linear-beta"},
            },
            "condition": {"factor": 2},
        }
    )
    return build_model(config, ("field",), *config.process.modes(), network)


def level(network, n, given_level):
    return level_start(SPACE, estimator(network, SPACE, "v"), float(n), 1, given_level)


PROCESS, SPACE = process_of(), space_of()
FIELDS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COARSE = FIELDS[..., :4, :4]
NOTHING = nothing(3)
WAYS = {
    "prior": (lambda f: prior(PROCESS, denoiser(f, PROCESS, "v")), NOTHING),
    "active modes": (lambda f: prior(PROCESS, adaptive_denoiser(f, PROCESS, "v")), NOTHING),
    "diffused": (lambda f: diffused(PROCESS, denoiser(f, PROCESS, "v"), 2, 0.1), FIELDS),
    "observed": (lambda f: observed(PROCESS, denoiser(f, PROCESS, "v"), 4, "box", 0.1), COARSE),
    "rescaled": (
        lambda f: rescaled(PROCESS, denoiser(f, PROCESS, "v"), process_of(4), 3, 0.1),
        COARSE,
    ),
    "conditional": (lambda f: conditional(f).observed(4, 2, None), COARSE),
    "scale space": (lambda f: level(f, SPACE.T, None), NOTHING),
    "scale space, coarse": (lambda f: level(f, SPACE.ends[0], 1), COARSE),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("way", WAYS)
def test_sampling_keeps_no_graph(way, sampler):
    network, how = Learning(), sampler_of(sampler, n_evals=6)
    start, given = WAYS[way]
    made = sample(start(network), given, how, batch_size=2)
    assert made.result.numpy().shape == made.start.numpy().shape == (3, 1, 8, 8)
    assert network.kept
    assert not any(network.kept)
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        same = sample(start(Learning()), given, how, batch_size=2)
    assert torch.equal(made.result, same.result)


def test_every_loop_keeps_no_graph_when_called_by_itself():
    network, noise = Learning(), SampleNoise(0, range(3))
    steps, estimate = step_grid(PROCESS, PROCESS.T, 4), denoiser(network, PROCESS, "v")
    for made in (
        ancestral(PROCESS, estimate, FIELDS, steps, noise),
        multistep(PROCESS, estimate, FIELDS, steps),
        level(network, SPACE.T, None).reverse(
            COARSE, estimator(network, SPACE, "v"), Multistep(6), noise
        ),
    ):
        assert not made.requires_grad
    assert not any(network.kept)


def test_a_denoiser_may_follow_gradients_of_its_own():
    network = Learning()
    plain = denoiser(network, PROCESS, "v")

    def guided(x_n, n):
        with torch.enable_grad():
            x = x_n.detach().requires_grad_()
            x_0 = plain(x, n)
            (slope,) = torch.autograd.grad(x_0.square().sum(), x)
        return x_0 - 0.01 * slope

    made, without = (
        sample(prior(PROCESS, each), nothing(2), Multistep(5)).result for each in (guided, plain)
    )
    assert not made.requires_grad
    assert not torch.equal(made, without)
    assert network.kept[:5] == [True] * 5


def test_transforms_follow_gradients_wherever_their_matrix_was_made_first():
    kspace._torch_matrix.cache_clear()
    with torch.inference_mode():
        expected = kspace.forward(torch.ones(5, 5), COSINE).clone()
    x = torch.ones(5, 5, requires_grad=True)
    X = kspace.forward(x, COSINE)
    assert torch.equal(X.detach(), expected)
    kspace.inverse(X, COSINE).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


def tensors(value):
    """The tensors that something cached holds."""
    if isinstance(value, tuple):
        return [x for each in value for x in tensors(each)]
    if isinstance(value, Process | Resize):
        return [x for x in vars(value).values() if isinstance(x, torch.Tensor)]
    return [value]


def classes_with_caches():
    """Every class of the package that has cached properties, with their names."""
    for found in pkgutil.walk_packages(skild_physics.__path__, "skild_physics."):
        if found.name.split(".")[1] in ("diffusion", "models", "networks", "training"):
            module = importlib.import_module(found.name)
            for each in vars(module).values():
                if isinstance(each, type) and each.__module__ == module.__name__:
                    names = [k for k, v in vars(each).items() if isinstance(v, cached_property)]
                    if names:
                        yield each, names


def test_no_cached_property_keeps_tensors_that_refuse_gradients():
    process, box = process_of(), resize("box", 8, 4, COSINE)
    objects = [
        process,
        Observation(process, "box", 4),
        space_of(),
        LevelPosterior(box, 0.5, 0.5),
        box,
        BetaSchedule((0.1, 0.2)),
        Conditions(
            CoarseConfig(factors=(2, 4), kernels={"box": 1}), 8, COSINE, torch.device("cpu")
        ),
    ]
    of_class = dict(classes_with_caches())
    assert {type(each) for each in objects} == set(of_class)
    for each in objects:
        for name in of_class[type(each)]:
            vars(each).pop(name, None)
            with torch.inference_mode():
                kept = tensors(getattr(each, name))
            assert kept
            assert not any(x.is_inference() for x in kept), (type(each), name)


def test_a_mode_that_is_kept_does_not_keep_gradients_from_flowing():
    """The estimate on active modes keeps frozen modes by a mask, which is cached."""
    process = process_of(k_c=0.0)
    denoise = adaptive_denoiser(Learning(), process, "v", 0.01, 2)
    n = float(process.T)
    with torch.inference_mode():
        denoise(FIELDS, n)
    x = FIELDS.clone().requires_grad_()
    denoise(x, n).square().sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_whitened_networks_follow_gradients_after_inference():
    process = process_of()
    network = WhitenedInput(CompactUNet((8,), (1,), 1, 8, 1, COSINE, 1), process, 1)
    lam = torch.ones(3)
    with torch.inference_mode():
        network(FIELDS, lam)
    x = FIELDS.clone().requires_grad_()
    network(x, lam).sum().backward()
    assert x.grad.shape == x.shape
