"""The published Flexi-UNet and the U-Net of guided diffusion that it is made of.

Numbers are those of the released code of arXiv 2603.08709 at its commit 86d02c2, run with the
weights and the fields of the formulas below.
"""

import hashlib

import numpy as np
import pytest
import torch
from small_runs import one_thread
from torch.utils.flop_counter import FlopCounterMode

from skild_physics.diffusion.betas import BetaSchedule, linear_betas
from skild_physics.networks import GuidedUNet, StepNetwork

threads = pytest.fixture(autouse=True, scope="module")(one_thread)

MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
# tensors, a digest of their names and shapes, parameters
LAYOUTS = {
    (64, True): (348, "dc3c13ab5536625c", 92_256_131),
    (64, False): (338, "b64f8d4b58efd2d5", 92_025_731),
    (128, True): (408, "f3f7fa28b7df2c4a", 95_228_163),
    (128, False): (398, "93f6a61a6cbdf098", 94_997_763),
    (256, True): (470, "ab139ceff4b7202d", 124_250_883),
    (256, False): (456, "d15426563a0e489b", 124_053_251),
}


@pytest.mark.parametrize(("size", "flexi"), LAYOUTS)
def test_tensors_are_those_of_the_released_code(size, flexi):
    with torch.device("meta"):
        network = GuidedUNet(size, multipliers=MULTIPLIERS[size], flexi=flexi)
    tensors = network.state_dict()
    text = "\n".join(f"{name} {tuple(w.shape)}" for name, w in sorted(tensors.items()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    count = sum(w.numel() for w in network.parameters())
    assert (len(tensors), digest, count) == LAYOUTS[size, flexi]


def waves(count, offset=0):
    k = np.arange(count)
    return torch.from_numpy(np.sin(1.618 * k * (1 + k % 7) + offset))


def small(**settings):
    """A network of three levels whose weights are a formula of their places."""
    network = GuidedUNet(32, 32, (1, 2, 3), **settings).eval()
    with torch.no_grad():
        for j, (_, w) in enumerate(sorted(network.state_dict().items())):
            w.copy_(waves(w.numel(), j).view_as(w) * (0.15 if w.ndim > 1 else 0.5))
    return network


def field(M):
    k = np.arange(6 * M * M)
    return torch.from_numpy(np.sin(0.37 * k * (1 + k % 5))).view(2, 3, M, M).float()


# side, side of the output: two sites of two fields, and the root mean square
OUTPUTS = {
    (True, 32, None): ([-0.32681, -0.47561], [0.49100, 0.10427], 0.53099),
    (True, 16, None): ([-0.73116, -0.85523], [0.78165, 0.55262], 0.52739),
    (True, 16, 32): ([-0.14239, -0.56366], [0.40164, 0.49433], 0.53877),
    (True, 8, None): ([-0.70555, -0.61116], [0.22162, 0.31082], 0.54239),
    (True, 8, 16): ([-0.56444, -0.60498], [0.45720, 0.57290], 0.49549),
    (False, 32, None): ([-0.65839, -0.28814], [0.26547, 0.32165], 0.65090),
}


@pytest.mark.parametrize(("flexi", "M", "side"), OUTPUTS)
def test_outputs_are_those_of_the_released_code(flexi, M, side):
    with torch.no_grad():
        y = small(flexi=flexi)(field(M), torch.tensor([4, 701]), side)
    first, second, size = OUTPUTS[flexi, M, side]
    np.testing.assert_allclose(y[:, 1, 2, 3], first, atol=3e-5)
    np.testing.assert_allclose(y[:, 0, -1, -2], second, atol=3e-5)
    assert float(y.square().mean().sqrt()) == pytest.approx(size, abs=2e-5)


def gflop(network, M, *side):
    at = {"device": "meta"}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, M, M, **at), torch.ones(1, **at), *side)
    return counter.get_total_flops() / 1e9


def test_arithmetic_is_the_published_one():
    """GFLOP of the mean step at 256 pixels, of four and six levels, as the paper rounds them."""
    with torch.device("meta"):
        network, plain = (
            GuidedUNet(256, multipliers=MULTIPLIERS[256], flexi=flexi) for flexi in (True, False)
        )
    sides = [256 >> level for level in range(6)]
    own = [gflop(network, M) for M in sides]
    raising = [gflop(network, M, 2 * M) for M in sides[1:]]
    for steps, published in ((438, 312, 187, 63), 273), ((306, 249, 195, 139, 83, 28), 210):
        total = sum(count * cost for count, cost in zip(steps, own, strict=False))
        changes = list(zip(raising, own[1:], strict=True))[: len(steps) - 1]
        total += sum(raised - cost for raised, cost in changes)
        assert int(total / 1000) == published
    assert int(gflop(plain, 256)) == 497
    assert own[0] == pytest.approx(435.5, abs=0.05)
    # a field that is raised to full size takes the whole way
    assert raising[0] == own[0]


def test_sides_between_two_levels_belong_to_the_finer_one():
    """40 of 64 sites enter at the level of 64, 28 at that of 32; they end at any larger side."""
    network = GuidedUNet(64, 32, (1, 1, 1, 1), 1, ())
    assert [network.entry(M) for M in (64, 40, 28, 16, 4)] == [0, 0, 1, 2, 3]
    n = torch.tensor([5.0, 5.0])
    for M, side in ((40, 64), (28, 40), (28, 64), (28, 28)):
        assert network(field(M), n, side).shape == (2, 3, side, side)


def test_what_it_cannot_take():
    network = small()
    n = torch.tensor([1.0, 1.0])
    with pytest.raises(ValueError, match="multiples of 4"):
        network(field(18), n)
    for M, side in ((16, 8), (16, 64)):
        with pytest.raises(ValueError, match=f"cannot take {M} x {M} fields to {side} x {side}"):
            network(field(M), n, side)
    with pytest.raises(ValueError, match="cannot take 16 x 16 fields to 32 x 32"):
        small(flexi=False)(field(16), n, 32)
    with pytest.raises(ValueError, match="a multiple of 32 and of the 4 heads"):
        GuidedUNet(32, 48)


def test_it_is_told_the_steps_of_its_schedule():
    schedule = BetaSchedule(linear_betas(1000))
    wrapped = StepNetwork(small(), schedule, 1000, 32, "cosine")
    n = torch.tensor([4, 701])
    lam = (schedule.lam(n / 1000) * 32**2).float()
    with torch.no_grad():
        expected = small()(field(16), n, 32)
        torch.testing.assert_close(wrapped(field(16), lam, 32), expected, rtol=0, atol=2e-4)
