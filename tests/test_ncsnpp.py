import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch.nn import functional as F

from skild_physics.networks import NCSNpp
from skild_physics.networks.ncsnpp import _Attention, _Down, _Dropout, _PyramidDown, _Up

BLOCK = ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1")
TINY = (8, 8, (1, 2), 1, (4,), 0.1, 2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost more than they save on fields this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomised(network, seed=0):
    """Weights of the size that keeps signals near one, so that every part counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, w in network.named_parameters():
            if w.ndim > 1:
                fan_in = w.shape[0] if name.endswith("W") else w[0].numel()
                w.copy_(torch.randn(w.shape, generator=generator) / math.sqrt(fan_in))
            else:
                w.add_(0.2 * torch.randn(w.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def network():
    return randomised(NCSNpp(*TINY)).eval()


def fields(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((32, 256, (1, 2, 2, 2), 8, (16,)), 429738755), ((128,), 121124867), ((256,), 121124867)],
)
def test_published_parameter_counts(arguments, count):
    with torch.device("meta"):
        network = NCSNpp(*arguments)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == count


def test_names_and_widths_of_weights():
    """By hand: two levels of one block, widths 8 and 16, attention at side 4 only."""
    attention = ("GroupNorm_0", *(f"NIN_{i}" for i in range(4)))
    parts = [
        ("",),  # the embedding
        ("",),
        ("",),  # stem
        BLOCK,
        (*BLOCK, "Conv_2"),  # down
        ("Conv2d_0",),
        (*BLOCK, "Conv_2"),  # 8 to 16
        attention,
        BLOCK,  # middle
        attention,
        BLOCK,
        (*BLOCK, "Conv_2"),  # 16 + 16 to 16
        (*BLOCK, "Conv_2"),  # 16 + 8 to 16
        attention,
        (*BLOCK, "Conv_2"),  # up
        (*BLOCK, "Conv_2"),  # 16 + 8 to 8
        (*BLOCK, "Conv_2"),  # 8 + 8 to 8
        ("",),  # last norm
        ("",),  # last convolution
    ]
    expected = [
        ".".join(filter(None, ("all_modules", str(k), layer, weight)))
        for k, layers in enumerate(parts)
        for layer in layers
        for weight in (("W", "b") if layer.startswith("NIN") else ("weight", "bias"))
    ]
    weights = NCSNpp(*TINY).state_dict()
    assert list(weights) == expected
    widths = {
        "0.weight": (32, 8),
        "1.weight": (32, 32),
        "2.weight": (8, 2, 3, 3),
        "3.Dense_0.weight": (8, 32),
        "5.Conv2d_0.weight": (8, 2, 3, 3),
        "6.Conv_0.weight": (16, 8, 3, 3),
        "6.Conv_2.weight": (16, 8, 1, 1),
        "7.NIN_3.W": (16, 16),
        "11.Conv_0.weight": (16, 32, 3, 3),
        "12.Conv_0.weight": (16, 24, 3, 3),
        "14.Conv_2.weight": (16, 16, 1, 1),
        "15.Conv_0.weight": (8, 24, 3, 3),
        "16.GroupNorm_0.weight": (16,),
        "18.weight": (2, 8, 3, 3),
    }
    for name, shape in widths.items():
        assert weights[f"all_modules.{name}"].shape == shape, name


def along_both_axes(x, up, down, taken):
    for axis in (-2, -1):
        h = up * np.array([1, 3, 3, 1]) / 8
        x = signal.upfirdn(h, x, up, down, axis=axis).take(taken(x.shape[axis]), axis=axis)
    return x


@given(
    st.integers(0, 1000), st.integers(1, 3), st.sampled_from([2, 6, 8]), st.sampled_from([2, 4, 10])
)
def test_resampling_is_upfirdn(seed, C, H, W):
    """score_sde pads by (2, 1) when going up and by (1, 1) when going down."""
    x = fields(seed, 2, C, H, W).double()
    up, down = _Up(C).double(), _Down(C).double()
    for found, expected in (
        (up(x), along_both_axes(x.numpy(), 2, 1, lambda N: range(1, 2 * N + 1))),
        (down(x), along_both_axes(x.numpy(), 1, 2, lambda N: range(1, N // 2 + 1))),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-13)


def test_pyramid_is_a_blur_and_a_strided_convolution():
    x = fields(0, 1, 2, 6, 10).double()
    pyramid = randomised(_PyramidDown(2, 3)).double()
    blurred = along_both_axes(x.numpy()[0], 1, 1, lambda N: range(1, N + 2))
    w, b = pyramid.Conv2d_0.weight.detach().numpy(), pyramid.Conv2d_0.bias.detach().numpy()
    expected = [
        sum(signal.correlate2d(blurred[i], w[o, i], "valid")[::2, ::2] for i in range(2)) + b[o]
        for o in range(3)
    ]
    np.testing.assert_allclose(pyramid(x)[0].detach().numpy(), expected, rtol=0, atol=1e-13)


def test_attention_is_an_explicit_softmax():
    attention = randomised(_Attention(12)).double()
    x = fields(1, 2, 12, 4, 6).double()
    p = {name: w.detach() for name, w in attention.named_parameters()}
    h = x.reshape(2, 3, -1)
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    h = h.reshape(2, 12, 24).mT * p["GroupNorm_0.weight"] + p["GroupNorm_0.bias"]
    q, k, v = (h @ p[f"NIN_{i}.W"] + p[f"NIN_{i}.b"] for i in range(3))
    w = torch.exp(q @ k.mT / math.sqrt(12))
    w = w / w.sum(dim=-1, keepdim=True)
    assert w.max() > 0.2
    h = w @ v @ p["NIN_3.W"] + p["NIN_3.b"]
    expected = (x + h.mT.reshape(x.shape)) / math.sqrt(2)
    torch.testing.assert_close(attention(x).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [3, 6])
def test_block(network, k):
    """(S x + W2 silu(norm(W1 silu(norm(x)) + D e))) / sqrt 2."""
    block = network.all_modules[k]
    x0, e = fields(5, 2, 8, 4, 4), fields(6, 2, 32)

    def half(x, norm, conv):
        h = F.silu(F.group_norm(x, x.shape[1] // 4, norm.weight, norm.bias, 1e-6))
        return F.conv2d(h, conv.weight, conv.bias, padding=1)

    h = half(x0, block.GroupNorm_0, block.Conv_0)
    h = half(h + block.Dense_0(e)[..., None, None], block.GroupNorm_1, block.Conv_1)
    x = x0
    if k == 6:
        x = F.conv2d(x0, block.Conv_2.weight, block.Conv_2.bias)
    torch.testing.assert_close(block(x0, e), (x + h) / math.sqrt(2))


def test_embedding_of_steps(network):
    seen = []
    hook = network.all_modules[0].register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    network(torch.zeros(3, 2, 8, 8), torch.tensor([0.0, 1.0, 517.25]))
    hook.remove()
    for n, e in zip([0, 1, 517.25], seen[0], strict=True):
        phases = [n * 10000 ** (-i / 3) for i in range(4)]
        expected = [f(phase) for f in (math.sin, math.cos) for phase in phases]
        torch.testing.assert_close(e, torch.tensor(expected), rtol=0, atol=1e-4)


def test_initial_weights():
    """Uniform up to sqrt(6 scale / (fan in + fan out)); scale 0.1 for q, k and v, 1e-10 at ends."""
    torch.manual_seed(0)
    network = NCSNpp(8, 32, (1, 2), 1, (4,), field_channels=16)
    closing = ("Conv_1.weight", "NIN_3.W", "18.weight")
    for name, w in network.named_parameters():
        if w.ndim == 1:
            norm = "GroupNorm" in name or "17" in name
            assert torch.all(w == (norm and name.endswith("weight"))), name
            continue
        scale = 1e-10 if name.endswith(closing) else 0.1 if "NIN" in name else 1
        bound = math.sqrt(6 * scale / (w[0].numel() + w[:, 0].numel()))
        assert 0.99 * bound < w.abs().max() <= bound, name
        assert w.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name


@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from([8, 12]), st.floats(0, 1000))
def test_output_is_nearly_zero_at_first(seed, N, n):
    torch.manual_seed(seed)
    network = NCSNpp(*TINY)
    y = network(torch.randn(2, 2, N, N), torch.full((2,), n))
    assert y.shape == (2, 2, N, N)
    assert 0 < y.abs().max() < 1e-3


@settings(max_examples=15)
@given(
    st.integers(0, 1000),
    st.lists(st.floats(0, 1000), min_size=2, max_size=5),
    st.sampled_from([(8, 8), (16, 16), (6, 10)]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_fields_of_a_batch_do_not_meet(network, seed, n, shape, memory_format):
    x = fields(seed, len(n), 2, *shape).contiguous(memory_format=memory_format)
    n = torch.tensor(n)
    with torch.no_grad():
        whole = network(x, n)
        alone = torch.cat([network(x[i : i + 1], n[i : i + 1]) for i in range(len(n))])
    assert whole.std() > 0.1
    torch.testing.assert_close(whole, alone, rtol=0, atol=2e-5)


SYMMETRIES = {
    "transpose": lambda w: w.mT,
    "flip rows": lambda w: w.flip(-2),
    "flip columns": lambda w: w.flip(-1),
}


@pytest.mark.parametrize("g", SYMMETRIES.values(), ids=SYMMETRIES)
@pytest.mark.parametrize("shape", [(8, 8), (6, 10)])
def test_symmetries_of_the_square(network, g, shape):
    """A network of transformed kernels maps transformed fields to transformed fields."""
    transformed = NCSNpp(*TINY).eval()
    weights = network.state_dict()
    transformed.load_state_dict({k: g(w) if w.ndim == 4 else w for k, w in weights.items()})
    x, n = fields(3, 2, 2, *shape), torch.tensor([20, 700])
    torch.testing.assert_close(transformed(g(x), n), g(network(x, n)), rtol=0, atol=2e-5)
    assert (transformed(x, n) - network(x, n)).abs().max() > 0.1


@settings(max_examples=8)
@given(st.integers(0, 1000), st.floats(0, 1000))
def test_bfloat16_is_close_to_float32(network, seed, n):
    x, n = fields(seed, 2, 2, 8, 8), torch.full((2,), n)
    with torch.no_grad():
        y = network(x, n)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x, n)
    assert rough.dtype == torch.bfloat16
    assert 1e-5 < (rough - y).std() / y.std() < 0.05


def test_gradients_reach_every_parameter():
    network = randomised(NCSNpp(*TINY))
    x = fields(0, 2, 2, 8, 8).requires_grad_()
    network(x, torch.tensor([3, 400])).square().sum().backward()
    largest = {name: w.grad.abs().max().item() for name, w in network.named_parameters()}
    assert x.grad.abs().min() > 0
    # a softmax does not see what is added to all of its logits
    unseen = {name for name in largest if name.endswith("NIN_1.b")}
    assert min(g for name, g in largest.items() if name not in unseen) > 1e-3
    assert max(largest[name] for name in unseen) < 1e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout(memory_format):
    """Each site is lost independently, and the mean stays."""
    torch.manual_seed(0)
    dropout, p, size = _Dropout(0.3), 0.3, 4 * 6 * 63 * 65
    x = torch.ones(4, 6, 63, 65).contiguous(memory_format=memory_format).requires_grad_()
    y = dropout(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert y.stride() == x.stride()
    lost = (y == 0).float()
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    assert abs(lost.mean() - p) < 4 * math.sqrt(p * (1 - p) / size)
    other = (dropout(x) == 0).float()
    for neighbour in (other, *(lost.roll(1, dim) for dim in range(4))):
        assert abs(((lost - p) * (neighbour - p)).mean()) < 4 * p * (1 - p) / math.sqrt(size)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(_Dropout(0.0)(x), x)
    with pytest.raises(ValueError, match="between 0 and 1"):
        _Dropout(1.5)


def test_dropout_is_in_every_block_and_only_in_training(network):
    x, n = fields(0, 2, 2, 8, 8), torch.tensor([3, 400])
    torch.testing.assert_close(network(x, n), network(x, n), rtol=0, atol=0)
    lossy = [m for m in network.modules() if isinstance(m, _Dropout)]
    assert [m.p for m in lossy] == [0.1] * 10
    for m in lossy:
        m.train()
        assert (network(x, n) - network(x, n)).abs().max() > 1e-3
        m.eval()


def test_compiles_without_breaks(network):
    x, n = fields(0, 2, 2, 8, 8), torch.tensor([3, 400])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, n), network(x, n))


def test_sides_must_be_multiples(network):
    assert network.multiple == 2
    for shape in ((7, 8), (8, 9)):
        with pytest.raises(ValueError, match=rf"multiples of 2, got {shape[0]} x {shape[1]}$"):
            network(torch.zeros(1, 2, *shape), torch.zeros(1))
    with pytest.raises(ValueError, match="multiples of 32, got 80 x 80"):
        NCSNpp(80, channels=4)
