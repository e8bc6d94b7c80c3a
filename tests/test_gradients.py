"""Sampling keeps no graph of gradients, and no cache keeps tensors that refuse gradients."""

import importlib
import pkgutil
from functools import cached_property

import pytest
import torch

import skild_physics
from skild_physics import kspace
from skild_physics.baselines.sr3 import super_resolve_conditional
from skild_physics.diffusion.adaptive import adaptive_denoiser
from skild_physics.diffusion.prediction import denoiser
from skild_physics.diffusion.process import Process, white_process
from skild_physics.diffusion.renormalization import enlarge
from skild_physics.diffusion.resize import Resize, resize
from skild_physics.diffusion.sampler import SampleNoise, ancestral, multistep, step_grid
from skild_physics.diffusion.scalespace import LevelPosterior, ScaleSpace
from skild_physics.diffusion.scalespace_sampling import (
    estimator,
    generate_scale_space,
    legs,
    reverse,
    super_resolve_scale_space,
)
from skild_physics.diffusion.schedule import LinearBetaSchedule, linear_to_resolution
from skild_physics.diffusion.superresolution import (
    SAMPLERS,
    Observation,
    Sampling,
    generate,
    super_resolve_observed,
    super_resolve_paired,
)
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


def told(network, process):
    return lambda fields: denoiser(
        lambda x, lam: network(torch.cat([x, fields], dim=1), lam), process, "v"
    )


PROCESS, WHITE, SPACE = (
    process_of(),
    white_process(8, LinearBetaSchedule(0.1, 20.0), COSINE),
    space_of(),
)
FIELDS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COARSE = FIELDS[..., :4, :4]
WAYS = {
    "generate": lambda f, s: generate(PROCESS, denoiser(f, PROCESS, "v"), 3, s),
    "live modes": lambda f, s: generate(PROCESS, adaptive_denoiser(f, PROCESS, "v"), 3, s),
    "paired": lambda f, s: super_resolve_paired(
        PROCESS, denoiser(f, PROCESS, "v"), FIELDS, 2, 0.1, s
    ),
    "observed": lambda f, s: super_resolve_observed(
        PROCESS, denoiser(f, PROCESS, "v"), COARSE, "box", 0.1, s
    ),
    "rescaled": lambda f, s: enlarge(
        PROCESS, denoiser(f, PROCESS, "v"), COARSE, process_of(4), 3, 0.1, s
    ),
    "told": lambda f, s: super_resolve_conditional(WHITE, told(f, WHITE), COARSE, s),
    "scale space": lambda f, s: generate_scale_space(SPACE, estimator(f, SPACE, "v"), 3, s),
    "scale space, coarse": lambda f, s: super_resolve_scale_space(
        SPACE, estimator(f, SPACE, "v"), COARSE, s
    ),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("way", WAYS)
def test_sampling_keeps_no_graph(way, sampler):
    network = Learning()
    made = WAYS[way](network, Sampling(6, sampler, batch_size=2))
    assert made.result.numpy().shape == made.start.numpy().shape == (3, 1, 8, 8)
    assert network.kept
    assert not any(network.kept)
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        same = WAYS[way](Learning(), Sampling(6, sampler, batch_size=2))
    assert torch.equal(made.result, same.result)


def test_every_loop_keeps_no_graph_when_called_by_itself():
    network, noise = Learning(), SampleNoise(0, range(3))
    steps, estimate = step_grid(PROCESS, PROCESS.T, 4), denoiser(network, PROCESS, "v")
    way = legs(SPACE, SPACE.T, 1, Sampling(6))
    for made in (
        ancestral(PROCESS, estimate, FIELDS, steps, noise),
        multistep(PROCESS, estimate, FIELDS, steps),
        reverse(SPACE, estimator(network, SPACE, "v"), COARSE, way, Sampling(6), noise),
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

    sampling = Sampling(5)
    made = generate(PROCESS, guided, 2, sampling)
    assert not made.result.requires_grad
    assert not torch.equal(made.result, generate(PROCESS, plain, 2, sampling).result)
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
        if found.name.split(".")[1] in ("baselines", "diffusion", "networks", "training"):
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
    """The estimate on live modes keeps frozen modes by a mask, which is cached."""
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
    network = WhitenedInput(CompactUNet((8,), (1,), 1, 8, 1, COSINE, 1), process)
    lam = torch.ones(3)
    with torch.inference_mode():
        network(FIELDS, lam)
    x = FIELDS.clone().requires_grad_()
    network(x, lam).sum().backward()
    assert x.grad.shape == x.shape
