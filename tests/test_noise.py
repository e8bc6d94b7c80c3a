"""Noise against published words of its generator, the exact transform, and the normal law."""

import itertools
import math

import numpy as np
import pretended_gpu
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from skild_physics.diffusion import philox, philox_compiled
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.philox import key_words, normal_fields
from skild_physics.models.objective import field_noise

CPU = torch.device("cpu")
ALL = 2**32 - 1
# Random123, tests/kat_vectors: philox4x32 10
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL, ALL, ALL, ALL), (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def integers(*values):
    return (torch.tensor([value]) for value in values)


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_words_are_the_published_ones(counter, key, words):
    assert philox.philox(*counter, *key) == words
    assert tuple(map(int, philox.philox(*integers(*counter), *integers(*key)))) == words


def exact(w, v):
    """Box and Muller's values in float64 of words, the first rounded to float32."""
    u = (np.asarray(w).astype(np.float32) + np.float32(0.5)).astype(np.float64) / 2**32
    r, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * np.asarray(v) / 2**32
    return r, r * np.cos(angle), r * np.sin(angle)


def test_values_are_those_of_the_words():
    """Within 4 units of 2^-24 of the radius, in the order that is documented."""
    key, draw, values = 0x299F31D0A4093822, 7, 4 * 5000
    blocks = range(values // 4)
    words = np.array([philox.philox(b, 0, draw, 0, 0xA4093822, 0x299F31D0) for b in blocks])
    found = normal_fields(key_words([key], CPU), (values,), draw)[0].numpy().reshape(-1, 2, 2)
    r, x, y = exact(words[:, ::2], words[:, 1::2])
    assert (np.abs(found[..., 0] - x) <= 4 * 2.0**-24 * r).all()
    assert (np.abs(found[..., 1] - y) <= 4 * 2.0**-24 * r).all()


def test_the_rarest_words():
    """The largest radius is that of 33 bits; no logarithm is taken of 0."""
    edges = [0, 1, 2, 2**23, 2**24 + 1, 2**31, ALL - 500, ALL - 1, ALL]
    turns = [q * 2**29 + d for q in range(8) for d in (-1, 0, 1)]
    for w, v in itertools.product(edges, [*(t % 2**32 for t in turns), ALL]):
        r, x, y = exact(w, v)
        one, other = philox_compiled._pair(w, v)
        assert abs(one - x) <= 4 * 2.0**-24 * r
        assert abs(other - y) <= 4 * 2.0**-24 * r
    assert philox_compiled._pair(0, 0)[0] == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)


KEYS = [0, 1, 2**32, 2**63, 2**64 - 1, 12345678901234567890]


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 5, 7), (1, 1, 1), (2, 0, 0)])
def test_every_device_computes_the_same_bits(monkeypatch, shape):
    for draw in (0, 1, ALL):
        compiled = normal_fields(key_words(KEYS, CPU), shape, draw)
        assert compiled.shape == (len(KEYS), *shape)
        assert compiled.dtype == torch.float32
        with monkeypatch.context() as patch:
            patch.setattr(philox_compiled, "PLAIN", True)
            assert torch.equal(normal_fields(key_words(KEYS, CPU), shape, draw), compiled)


@pytest.mark.skipif(not pretended_gpu.available, reason="needs torch's devices written in Python")
def test_noise_of_a_device_is_that_of_the_cpu(monkeypatch):
    """For training and sampling, without a wait for the device."""
    x, cpu = torch.empty(3, 1, 9, 9), SampleNoise(5, [0, 3, 4])
    wanted = [field_noise(KEYS, (3, 5, 7), CPU), cpu.like(x), cpu.like(x)]
    with pretended_gpu.pretended(monkeypatch) as counts:
        noise, there = SampleNoise(5, [0, 3, 4]), x.to("gpu")
        counts.clear()
        found = [field_noise(KEYS, (3, 5, 7), torch.device("gpu"))]
        found += [noise.like(there), noise.like(there)]
        assert counts["reads"] == 0
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True))


def test_every_operation_is_one_of_cuda():
    with FakeTensorMode():
        x = torch.empty(3, 1, 9, 9, device="cuda", dtype=torch.float64)
        for made in (SampleNoise(0, range(3)).like(x), field_noise([1], (2, 8, 8), x.device)):
            assert made.device.type == "cuda"
        assert SampleNoise(0, range(3)).like(x).dtype == torch.float64


def test_a_value_is_that_of_its_key_draw_and_place():
    """Whatever the batch, and whatever comes after it in the field."""
    whole = normal_fields(key_words(KEYS, CPU), (4, 8, 8), 3)
    for i, key in enumerate(KEYS):
        assert torch.equal(normal_fields(key_words([key], CPU), (4, 8, 8), 3)[0], whole[i])
    first = normal_fields(key_words(KEYS, CPU), (3, 7, 3), 3).flatten(1)
    assert torch.equal(first, whole.flatten(1)[:, :63])


def test_draws_of_samples_are_those_of_their_numbers():
    x = torch.empty(6, 2, 8, 8)
    noise = SampleNoise(1, range(6))
    whole = [noise.like(x) for _ in range(3)]
    for part in ([0, 1, 2], [3], [5, 4]):
        noise = SampleNoise(1, part)
        for draws in whole:
            assert torch.equal(noise.like(x[part]), draws[part])


@pytest.fixture(scope="module")
def many():
    """A million values, of 64 successive keys."""
    return normal_fields(key_words(range(64), CPU), (2**14,)).numpy().astype(np.float64)


def test_values_are_normal(many):
    """Moments to the eighth, the distribution function and the tails, each to 4.5 sigmas."""
    x, count = many.ravel(), many.size
    for power in range(1, 9):
        mean = stats.norm.moment(power)
        error = math.sqrt((stats.norm.moment(2 * power) - mean**2) / count)
        assert abs(np.mean(x**power) - mean) < 4.5 * error
    # of those who sample a normal law, one in 150,000 is further away
    assert stats.kstest(x[: 2**20], "norm").pvalue > 7e-6
    for edge in (3.0, 4.0, 4.5, 5.0):
        expected = count * stats.norm.sf(edge)
        for found in ((x > edge).sum(), (x < -edge).sum()):
            assert abs(found - expected) < 4.5 * math.sqrt(expected) + 1


def correlations(a, b):
    """In units of their errors, of unit normal values and of their squares."""
    for f in (lambda x: x, lambda x: (x**2 - 1) / math.sqrt(2)):
        yield f(a) @ f(b).T / math.sqrt(a.shape[-1])


def test_fields_draws_and_places_are_independent(many):
    """Every two of 64 fields, a field and another draw of it, and values up to 64 apart."""
    for found in correlations(many, many):
        # 2016 pairs
        assert np.abs(found[~np.eye(64, dtype=bool)]).max() < 5.5
    for draw in (1, 2):
        other = normal_fields(key_words(range(64), CPU), (2**14,), draw).numpy().astype(np.float64)
        for found in correlations(many, other):
            # 4096 pairs
            assert np.abs(found).max() < 5.5
    x = many.reshape(1, -1)
    for lag in range(1, 65):
        for found in correlations(x[:, lag:], x[:, :-lag]):
            assert abs(found.item()) < 5
