"""Networks: the symmetries that their boundaries give them, and steps in place of lambda."""

import itertools

import numpy as np
import pytest
import small_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import nn

from skild_physics import kspace
from skild_physics.config import parse_config
from skild_physics.diffusion.prediction import denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, LogLinearSchedule, linear_to_resolution
from skild_physics.files import InputError
from skild_physics.kspace import wavenumbers
from skild_physics.networks import CompactUNet, NCSNpp, StepNetwork, WhitenedInput
from skild_physics.networks.widening import widen
from skild_physics.spectrum import PowerLaw

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)

SCHEDULES = {
    "linear": LinearSchedule(564.2461, 275.4361, 9.0),
    "linear to nothing": LinearSchedule(137.7294, 1.57, 5.0),
    "log-linear": LogLinearSchedule(-3.75, -2.0),
}


def compact(patch=1, field_channels=1, basis="periodic", levels=2):
    """No weight at its start, which is zero for some."""
    torch.manual_seed(0)
    network = CompactUNet((8, 12)[:levels], (1, 1)[:levels], patch, 16, field_channels, basis)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double()


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# lambda N^2, in square pixels
LAM = torch.tensor([0.03, 3.0], dtype=torch.float64)


# the compact U-Net


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1, 2]), st.sampled_from([1, 3]))
def test_periodic_network_commutes_with_translations(dy, dx, patch, channels):
    """Of multiples of the coarsest cell."""
    network = compact(patch, channels)
    x = noise(2, channels, 16, 16)
    shift = (dy * network.multiple, dx * network.multiple)
    with torch.no_grad():
        moved, still = network(x.roll(shift, (2, 3)), LAM), network(x, LAM)
    torch.testing.assert_close(moved, still.roll(shift, (2, 3)))


def copied(channels, seed=0):
    wide = CompactUNet(channels, (1, 1), 2, 16, conditioning=3, labels=2).double()
    return widen(wide, narrow_one(), seed)


def narrow_one():
    torch.manual_seed(0)
    network = CompactUNet((8, 12), (1, 1), 2, 16, conditioning=3, labels=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.double()


@torch.no_grad()
def test_with_every_channel_twice_a_network_computes_the_same():
    x = noise(2, 4, 16, 16)
    found, twice = narrow_one()(x, LAM), copied((16, 24))(x, LAM)
    # norms are those of single precision
    torch.testing.assert_close(twice, found, rtol=1e-5, atol=1e-5)
    some = copied((12, 15))(x, LAM)
    assert 1e-5 < (some - found).norm() / found.norm() < 0.3


def test_copies_of_a_channel_learn_different_things():
    network = copied((16, 24))
    network(noise(2, 4, 16, 16), LAM).square().sum().backward()
    gradient = network.down[0][0].first.weight.grad
    # each row writes a channel, and the second eight copy the first in some order
    apart = torch.cdist(gradient[:8].flatten(1), gradient[8:].flatten(1))
    assert float(apart.min()) > 0.01 * float(gradient[:8].flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize(
    ("channels", "blocks", "basis"),
    [
        ((6, 12), (1, 1), "periodic"),
        ((8,), (1,), "periodic"),
        ((8, 12), (1, 2), "periodic"),
        ((16, 24), (1, 1), "cosine"),
    ],
)
def test_only_to_more_channels_a_network_can_be_widened(channels, blocks, basis):
    wide = CompactUNet(channels, blocks, 2, 16, basis=basis, conditioning=3, labels=2)
    with pytest.raises(InputError, match="widened"):
        widen(wide, narrow_one())


def make_even(network):
    """Average every weight over the reflections of both axes."""
    patch = network.patch
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        w = module.weight.data
        out, into = w.shape[:2]
        # sites of a patch are channels: rows of the output, rows of the input, rows of the kernel
        cells_out = {"head": patch}.get(name, 2 if name.startswith("refine") else 1)
        cells_in = patch if name == "stem" else 1
        shape = (out // cells_out**2, cells_out, cells_out, into // cells_in**2, *[cells_in] * 2)
        w, b = w.view(*shape, *w.shape[2:]), module.bias.data.view(shape[:3])
        axes = [list(chosen) for n in range(3) for chosen in itertools.combinations([0, 1], n)]
        flipped = [
            w.flip([first + axis for axis in chosen for first in (1, 4, 6)]) for chosen in axes
        ]
        module.weight.data = torch.stack(flipped).mean(0).view(module.weight.shape)
        b = torch.stack([b.flip([1 + axis for axis in chosen]) for chosen in axes]).mean(0)
        module.bias.data = b.flatten()
    return network


@pytest.mark.parametrize(
    ("patch", "levels"),
    [(1, 1), (1, 2), (2, 2)],
)
@pytest.mark.parametrize("field_channels", [1, 3])
def test_cosine_network_is_the_periodic_one_on_the_even_extension(patch, levels, field_channels):
    """The waves of the DCT-II are even about both edges, half a site beyond the outermost ones."""
    mirror = make_even(compact(patch, field_channels, "cosine", levels))
    torus = make_even(compact(patch, field_channels, "periodic", levels))
    x = noise(2, field_channels, 8, 8)
    extended = torch.cat([x, x.flip(2)], dim=2)
    extended = torch.cat([extended, extended.flip(3)], dim=3)
    with torch.no_grad():
        found, expected = mirror(x, LAM), torus(extended, LAM)
        # norms are taken in float32
        torch.testing.assert_close(found, expected[..., :8, :8], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(expected, expected.flip(2, 3), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, torus(x, LAM), atol=0.01)


@pytest.mark.parametrize("basis", kspace.BASES)
def test_constant_fields_show_no_edge(basis):
    network = compact(basis=basis, levels=1)
    with torch.no_grad():
        made = network(torch.full((2, 1, 16, 16), 0.7, dtype=torch.float64), LAM)
    torch.testing.assert_close(made, made[..., :1, :1].expand_as(made))


@pytest.mark.parametrize("basis", kspace.BASES)
def test_compact_network_takes_other_sizes_and_channels(basis):
    network = compact(2, 3, basis)
    assert network.multiple == 4
    with torch.no_grad():
        for side in (4, 12, 40):
            x = noise(2, 3, side, side)
            made = network(x, LAM)
            assert made.shape == x.shape
            assert not torch.allclose(made, network(x, LAM.flip(0)), atol=1e-3)
            for channel in range(3):
                other = x.clone()
                other[:, channel] += 1
                changed = (network(other, LAM) - made).abs().amax(dim=(0, 2, 3))
                assert bool((changed > 1e-3).all())


@pytest.mark.parametrize("shape", [(15, 15), (16, 18), (18, 16), (2, 2)])
def test_compact_network_refuses_other_sides(shape):
    with pytest.raises(ValueError, match=f"multiples of 4, got {shape[0]} x {shape[1]}"):
        compact(2)(noise(1, 1, *shape), LAM[:1])


# networks that count steps


class Told(nn.Module):
    """Remembers the steps that it is told, and returns the fields that it is given to return."""

    multiple = 4

    def __init__(self, output=None):
        super().__init__()
        self.output = output

    def forward(self, x, n):
        assert n.dtype == torch.float32
        self.n = n.double()
        return x if self.output is None else self.output


@pytest.mark.parametrize("size", [16, 128])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_steps_are_those_of_the_schedule(kind, size):
    """What training and sampling pass on, in float32, the ends of the schedule among it."""
    schedule, T = SCHEDULES[kind], 1000
    inner = Told()
    network = StepNetwork(inner, schedule, T, size, "cosine")
    n = torch.cat([torch.tensor([1e-3, 0.5]), torch.arange(1, T + 1)]).double()
    for side, process_schedule in ((size, schedule), (2 * size, schedule.scaled(1 / 4))):
        # a lattice of twice the side with the same spacing
        lam = (process_schedule.lam(n / T) * side**2).float()
        network(torch.zeros(len(n), 1, 4, 4), lam)
        torch.testing.assert_close(inner.n, n, rtol=3e-6, atol=0)
        assert float(inner.n.max()) <= T
    # float32 has values on both sides of the end
    end = float(schedule.lam(1.0)) * size**2
    near = [np.nextafter(np.float32(end), np.float32(side)) for side in (0, np.inf)]
    network(torch.zeros(2, 1, 4, 4), torch.tensor(np.array(near)))
    torch.testing.assert_close(inner.n, torch.full((2,), float(T)).double(), rtol=3e-6, atol=0)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_denoisers_tell_the_step(side):
    """The process of a smaller or larger lattice does too, since its spacing is the same."""
    S0 = torch.tensor(PowerLaw(1.0, 2.0, 1.0)(kspace.wavenumbers(16, "cosine")))
    process = Process(S0, SCHEDULES["linear to nothing"], "cosine", 3.0)
    inner = Told()
    network = StepNetwork(inner, process.schedule, process.T, 16, "cosine")
    resized = process.resized(side)
    for n in (0.25, 1.0, 377.0, 1000.0):
        denoiser(network, resized, "eps")(noise(3, 1, side, side).float(), n)
        torch.testing.assert_close(inner.n, torch.full((3,), n).double(), rtol=3e-6, atol=0)


def paper_dct(x):
    """X_u = (2/N) sum_i x_i cos(pi (i + 1/2) u / N) along both axes."""
    N = x.shape[-1]
    u, i = torch.meshgrid(torch.arange(N).double(), torch.arange(N).double(), indexing="ij")
    C = 2 / N * torch.cos(torch.pi * (i + 0.5) * u / N)
    return C @ x @ C.T


def test_raw_output_in_the_normalisation_of_the_paper():
    """x_0 = (x_n - sqrt(1 - abar) sqrt(S0) eps) / sqrt(abar), all modes in this normalisation."""
    N, n = 16, 300.0
    law = PowerLaw(0.91001, 1.940556, 1.051304)
    k = kspace.wavenumbers(N, "cosine")
    S0 = law(k) / kspace.normalization_factor(N, "cosine") ** 2
    process = Process(torch.tensor(S0), SCHEDULES["linear to nothing"], "cosine", 3.0)
    raw, x_n = 5 * noise(2, 3, N, N, seed=1), noise(2, 3, N, N, seed=2)

    network = StepNetwork(Told(raw), process.schedule, process.T, N, "cosine", "paper").double()
    x_0 = denoiser(network, process, "eps")(kspace.forward(x_n, "cosine"), n)

    abar = torch.exp(-(torch.tensor(k).clamp(min=3.0) ** 2) * process.lam(n))
    expected = paper_dct(x_n) - torch.sqrt((1 - abar) * torch.tensor(law(k))) * paper_dct(raw)
    found = paper_dct(kspace.inverse(x_0, "cosine"))
    torch.testing.assert_close(found, expected / abar.sqrt(), rtol=1e-5, atol=1e-5)

    # a bulk mode of the output is 2/N times that of the raw one, and 2 sqrt(2)/N on an axis
    plain = StepNetwork(Told(raw), process.schedule, process.T, N, "cosine").double()
    lam = torch.ones(2).double()
    scaled, modes = (kspace.forward(f(x_n, lam).double(), "cosine") for f in (network, plain))
    for (u, v), factor in (((3, 5), 2), ((0, 5), 2 * 2**0.5), ((0, 0), 4)):
        torch.testing.assert_close(
            scaled[..., u, v], factor / N * modes[..., u, v], rtol=1e-5, atol=1e-5
        )


def test_normalised_output_stays_float32_under_autocast():
    """Products with the basis in bfloat16 would lose what the network computed."""
    raw = noise(1, 1, 16, 16).float()
    network = StepNetwork(Told(raw), SCHEDULES["linear"], 1000, 16, "cosine", "paper")
    exact = network(raw, torch.ones(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(raw, torch.ones(1)), exact)


def test_step_network_of_one_size_refuses_others():
    def of(normalization):
        inner = NCSNpp(16, 8, (1, 2), 1, (8,), 0.0, 1)
        return StepNetwork(inner, SCHEDULES["linear"], 1000, 16, "cosine", normalization)

    paper, orthonormal = of("paper"), of("orthonormal")
    assert (paper.multiple, orthonormal.multiple) == (16, 2)
    with pytest.raises(ValueError, match="takes 16 x 16, got 8"):
        paper(torch.zeros(1, 1, 8, 8), torch.ones(1))
    with torch.no_grad():
        assert orthonormal(torch.zeros(1, 1, 8, 8), torch.ones(1)).shape == (1, 1, 8, 8)
        with pytest.raises(ValueError, match="multiples of 2, got 9 x 9"):
            orthonormal(torch.zeros(1, 1, 9, 9), torch.ones(1))


def test_weights_of_a_step_network_are_those_of_its_network():
    """Nothing but the published names, so that published weights load."""
    inner = NCSNpp(16, 8, (1, 2), 1, (8,), 0.0, 1)
    for normalization in ("paper", "orthonormal"):
        network = StepNetwork(inner, SCHEDULES["linear"], 1000, 16, "cosine", normalization)
        assert [f"network.{name}" for name in inner.state_dict()] == list(network.state_dict())


# fields that are seen whitened, too


@pytest.mark.parametrize("N", [16, 24])
@pytest.mark.parametrize("others", [0, 2])
def test_a_network_sees_its_field_with_modes_of_equal_variance(N, others):
    S0 = torch.as_tensor(PowerLaw(0.9, 2.0, 1.1)(wavenumbers(16, "cosine")))
    process = Process(S0, linear_to_resolution(16, 0.5, 9.0, 0.1), "cosine", 3.0)
    seen = []

    class Eye(nn.Module):
        multiple = 2

        def forward(self, x, lam):
            seen.append(x)
            return x[:, :3]

    root = process.resized(N).S0.sqrt().numpy()
    modes = np.random.default_rng(0).normal(size=(5, 3, N, N))
    fields = torch.from_numpy(idctn(root * modes, axes=(-2, -1), norm="ortho")).float()
    network = WhitenedInput(Eye(), process, 3)
    assert network.multiple == 2
    labels = torch.randn(5, others, N, N)
    torch.testing.assert_close(network(torch.cat([fields, labels], 1), torch.ones(5)), fields)
    torch.testing.assert_close(seen[0][:, :3], fields)
    torch.testing.assert_close(seen[0][:, 6:], labels)
    white = dctn(seen[0][:, 3:6].numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(white, modes, atol=2e-3)


def test_whitened_fields_go_with_full_lattices_only():
    values = {
        "out": "x",
        "data": {"source": "photographs"},
        "process": {
            "law": {"size": 16, "C": 1.0, "k0_squared": 2.0, "alpha": 1.0, "basis": "cosine"},
            "schedule": {"kind": "linear", "resolution": 0.5},
        },
        "network": {"whitened": True},
    }
    assert parse_config(values).network.whitened
    with pytest.raises(ValueError, match=r"network.whitened: goes without"):
        parse_config({**values, "training": {"snr_threshold": 0.1}})
