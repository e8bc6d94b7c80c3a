"""Means of independent spins whose sum is known, against enumeration and exact convolutions."""

import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
import torch._dynamo

from skild_physics.models.canonical import SUREST, canonical_means, harmonics
from skild_physics.models.coarse import in_blocks


def averaging(N, b):
    """P of blocks of b x b sites, float64."""
    of_axis = np.kron(np.eye(N // b), np.full((b, b), 1 / b))
    return torch.as_tensor(of_axis)[None, None]


def moved(D, ups, b, J=None):
    """Means (M, M, b^2) by blocks, of as many spins up as ``ups`` (M, M) says."""
    everywhere = torch.as_tensor(np.kron(ups, np.ones((b, b))))[None, None].to(D)
    P = averaging(D.shape[-1], b).to(D)
    return in_blocks(canonical_means(D, P, everywhere, b**2, J or harmonics(b)), b)[0, 0]


def enumerated(D, k):
    """Of independent spins of means D (n,), k of them up."""
    total, sums = 0.0, np.zeros(len(D))
    for chosen in combinations(range(len(D)), k):
        s = -np.ones(len(D))
        s[list(chosen)] = 1
        weight = np.prod((1 + s * D) / 2)
        total, sums = total + weight, sums + weight * s
    return sums / total


def convolved(D, k):
    """The same for many spins: the others' sum by convolution."""
    p, found = (1 + D) / 2, []
    for i in range(len(p)):
        law = np.ones(1)
        for q in np.delete(p, i):
            law = np.convolve(law, [1 - q, q])
        up = p[i] * law[k - 1] if k else 0.0
        down = (1 - p[i]) * law[k] if k < len(p) else 0.0
        found.append((up - down) / (up + down))
    return np.array(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spins_of_a_block_have_the_means_of_all_states_with_its_sum(dtype):
    b, rng = 4, np.random.default_rng(0)
    D = torch.as_tensor(np.tanh(rng.normal(0, 1.5, (1, 1, 16, 16)))).to(dtype)
    ups = rng.integers(0, 17, (4, 4))
    found, given = moved(D, ups, b), in_blocks(D, b)[0, 0].double().numpy()
    for at in np.ndindex(4, 4):
        exact = enumerated(given[at].clip(-SUREST, SUREST), ups[at])
        np.testing.assert_allclose(found[at], exact, atol=1e-10 if dtype == torch.float64 else 2e-5)


def test_two_uncertain_spins_are_no_ensemble_of_many():
    D = torch.ones(1, 1, 4, 4)
    D[0, 0, 0, 0], D[0, 0, 0, 1], D[0, 0, 2, 2] = 0.8, 0.0, -1.0
    found = moved(D, np.array([[14]]), 4)[0, 0]
    assert found[[0, 1]].tolist() == pytest.approx([0.8, -0.8], abs=0.01)


@pytest.mark.parametrize("k", [0, 1, 5, 15, 16])
def test_spins_that_were_certain_of_another_sum(k):
    """Whatever is known of the least wrong ones decides."""
    D = torch.full((1, 1, 4, 4), -0.99)
    D[0, 0, 1, 1], D[0, 0, 3, 2] = 1.0, -0.9
    found = moved(D, np.array([[k]]), 4)[0, 0]
    exact = enumerated(in_blocks(D, 4)[0, 0, 0, 0].double().numpy().clip(-SUREST, SUREST), k)
    np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize("b", [8, 16])
def test_large_blocks_need_no_more_harmonics(b):
    rng = np.random.default_rng(b)
    for spread in (0.2, 2.0):
        D = np.tanh(rng.normal(0, spread, (1, 1, b, b)))
        s = np.where(rng.random(D.shape) < (1 + D) / 2, 1, -1)
        k = int((s > 0).sum())
        exact = convolved(D.ravel().clip(-SUREST, SUREST), k)
        # fields of blocks of several sizes have the harmonics of the largest
        for J in (harmonics(b), harmonics(16)):
            found = moved(torch.as_tensor(D), np.array([[k]]), b, J)[0, 0]
            np.testing.assert_allclose(found, exact, atol=1e-9)


@pytest.mark.parametrize("b", [2, 3, 4])
def test_derivatives_are_those_of_differences(b):
    rng = np.random.default_rng(b)
    ups = torch.as_tensor(np.kron(rng.integers(0, b**2 + 1, (2, 2)), np.ones((b, b))))
    D = torch.as_tensor(np.tanh(rng.normal(0, 1, (1, 1, 2 * b, 2 * b)))).requires_grad_()

    def means(D):
        return canonical_means(D, averaging(2 * b, b), ups[None, None], b**2, harmonics(b))

    assert torch.autograd.gradcheck(means, D)


def test_an_estimate_that_is_surely_wrong_is_led_back():
    D = torch.full((1, 1, 4, 4), 0.3)
    D[0, 0, 0, 0], D[0, 0, 0, 1] = 1.1, -1.2
    D.requires_grad_()
    # both are down: a step of descent makes the first smaller, and leaves the second
    (moved(D, np.array([[9]]), 4)[0, 0, :2] + 1).square().sum().backward()
    assert D.grad[0, 0, 0, 0] > 0
    assert D.grad[0, 0, 0, 1] == 0


def test_without_blocks_nothing_is_infinite():
    """On a GPU fields without blocks are computed, too, and left aside."""
    D = torch.linspace(-1.2, 1.2, 64).reshape(1, 1, 8, 8).requires_grad_()
    found = canonical_means(D, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), 1, harmonics(16))
    (found * 0).sum().backward()
    assert bool(torch.isfinite(found).all())
    assert bool((D.grad == 0).all())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_it_is_the_same():
    torch.compiler.reset()
    rng = np.random.default_rng(0)
    D = torch.as_tensor(np.tanh(rng.normal(0, 1, (3, 1, 8, 8)))).float()
    P = averaging(8, 2).float().expand(3, 1, 8, 8)
    ups = torch.as_tensor(np.kron(rng.integers(0, 5, (4, 4)), np.ones((2, 2)))).float()
    found = []
    for compiled in (False, True):
        given = D.clone().requires_grad_()
        means = canonical_means(given, P, ups.expand_as(D), 4, harmonics(2), compiled)
        (means * torch.linspace(0, 1, 8)).sum().backward()
        found.append((means.detach(), given.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
