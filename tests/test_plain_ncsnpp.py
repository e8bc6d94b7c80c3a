import importlib.util
import math
from pathlib import Path

import pytest
import torch

from skild_physics.networks.ncsnpp import NCSNpp

SOURCE = Path(__file__).parents[1] / "benchmarks" / "plain_ncsnpp.py"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they save on fields this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_ncsnpp", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# size, channels, multipliers, blocks, attention, dropout, field_channels
SETTINGS = {
    "attention at two levels": (16, 8, (1, 2, 2), 2, (8, 4), 0.1, 3),
    "attention at the ends of odd multiples": (24, 8, (1, 1, 2, 3), 1, (24, 3), 0.1, 1),
    "coarsest side 5": (20, 12, (1, 2), 1, (10,), 0.1, 2),
    "one level, attention in the middle only": (6, 8, (2,), 1, (), 0.1, 3),
    "groups at their limit": (4, 32, (1, 5), 1, (), 0.1, 3),
}


def random_weights(network):
    """No parameter at its start, norms around one, and signals that neither die nor explode."""
    weights = {}
    for name, w in network.state_dict().items():
        fan_in = w[0].numel() if w.ndim > 2 else max(w.shape)
        weights[name] = torch.randn_like(w) * (0.1 if w.ndim == 1 else math.sqrt(2 / fan_in))
        if "GroupNorm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights


def pair(plain, settings):
    torch.manual_seed(3)
    networks = plain.PlainNCSNpp(*settings).double().eval(), NCSNpp(*settings).double().eval()
    weights = random_weights(networks[0])
    for network in networks:
        network.load_state_dict(weights, strict=True)
    return networks


def outputs_and_gradients(network, x, n, direction):
    x = x.clone().requires_grad_()
    y = network(x, n)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad((y * direction).sum(), [x, *parameters.values()])
    return {"output": y.detach()} | dict(zip(["x", *parameters], gradients, strict=True))


# the frequencies of the embedding are rounded to float32, so n > 0 leaves their last digits open
@pytest.mark.parametrize(("n", "tolerance"), [((0, 0), 1e-12), ((1, 1000), 1e-4)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_same_weights_same_output_same_gradients(plain, settings, n, tolerance):
    networks = pair(plain, settings)
    shape = (2, settings[-1], settings[0], settings[0])
    x, direction = torch.randn(2, *shape, dtype=torch.float64)
    slow, fast = (outputs_and_gradients(f, x, torch.tensor(n), direction) for f in networks)
    assert slow.keys() == fast.keys()
    assert slow["output"].std() > 0.01
    largest = max(g.abs().max() for name, g in slow.items() if name != "output")
    for name, expected in slow.items():
        scale = slow["output"].std() if name == "output" else largest
        assert (fast[name] - expected).abs().max() < tolerance * scale, name


def test_the_embedding_is_rounded_as_in_the_public_code(plain):
    network, n = NCSNpp(8, 128, (1,), 1, ()), torch.arange(1, 1001)
    phase = n.float()[:, None] * network.frequencies
    assert torch.equal(torch.cat([phase.sin(), phase.cos()], dim=1), plain.time_embedding(n, 128))


def test_every_weight_matters(plain):
    """No gradient vanishes but that of the keys' biases, which the softmax cannot see."""
    network, _ = pair(plain, SETTINGS["attention at two levels"])
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = outputs_and_gradients(network, x, torch.tensor([3, 400]), torch.ones_like(x))
    still = [name for name, g in found.items() if g.abs().max() < 1e-12]
    assert still == [name for name in found if name.endswith("NIN_1.b")]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ((32, 256, (1, 2, 2, 2), 8, (16,)), 429_738_755),
        ((128, 128, (1, 1, 2, 2, 2, 2), 6, (32, 16, 8)), 121_124_867),
        ((256, 128, (1, 1, 2, 2, 2, 2), 6, (32, 16, 8)), 121_124_867),
    ],
)
def test_published_sizes(plain, settings, count):
    with torch.device("meta"):
        slow, fast = plain.PlainNCSNpp(*settings), NCSNpp(*settings)
    for network in (slow, fast):
        assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count
    shapes = [{name: w.shape for name, w in f.state_dict().items()} for f in (slow, fast)]
    assert list(shapes[0]) == list(shapes[1])
    assert shapes[0] == shapes[1]


def test_resampling_keeps_places_and_constants(plain):
    """Site i of the coarse field lies between sites 2i and 2i + 1 of the fine one."""
    fine = torch.arange(12, dtype=torch.float64).expand(1, 1, 12, 12)
    coarse = plain.downsample(fine)[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(coarse, (2 * torch.arange(1, 5).double() + 0.5).expand(4, 4))
    finer = plain.upsample(fine)[0, 0, 2:-2, 2:-2]
    torch.testing.assert_close(finer, (torch.arange(2, 22).double() / 2 - 0.25).expand(20, 20))


def test_blocks_start_as_scaled_identities(plain):
    """What closes a branch starts at nearly zero, so that the network starts at nearly zero."""
    torch.manual_seed(0)
    network = plain.PlainNCSNpp(8, 8, (1, 2), 1, (4,)).eval()
    x, e = torch.randn(2, 8, 8, 8), torch.randn(2, 32)
    torch.testing.assert_close(network.all_modules[3](x, e), x / math.sqrt(2), rtol=0, atol=1e-3)
    assert network(torch.randn(2, 3, 8, 8), torch.tensor([1, 900])).abs().max() < 1e-3


def test_time_embedding(plain):
    e = plain.time_embedding(torch.tensor([0, 3]), 6)
    assert e.dtype == torch.float32
    torch.testing.assert_close(e[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    phases = [3.0, 0.03, 0.0003]
    expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
    torch.testing.assert_close(e[1], torch.tensor(expected))
