"""Flexi-UNet: the compact U-Net at full size, the levels that a field needs at smaller ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import one_thread
from torch import nn

from skild_physics.networks import CompactUNet, FlexiUNet

threads = pytest.fixture(autouse=True, scope="module")(one_thread)


def flexi(size=32, channels=(8, 12, 16), patch=1, seed=0, **more):
    torch.manual_seed(seed)
    network = FlexiUNet(size, channels, (1,) * len(channels), patch, 8, **more)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)
    return network


def fields(side, seed=0, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, side, side, generator=generator), torch.tensor([1e-3, 0.1, 2.0])


@pytest.mark.parametrize("basis", ["periodic", "cosine"])
def test_at_full_size_it_is_the_compact_network(basis):
    network = flexi(basis=basis)
    plain = CompactUNet(channels=(8, 12, 16), blocks=(1, 1, 1), patch=1, embedding=8, basis=basis)
    plain.load_state_dict({k: network.state_dict()[k] for k in plain.state_dict()})
    x, lam = fields(32)
    assert torch.equal(network(x, lam), plain(x, lam))


def used(network, *arguments):
    network.zero_grad()
    network(*arguments).square().sum().backward()
    return {name for name, weight in network.named_parameters() if weight.grad is not None}


def test_a_small_field_uses_the_deeper_levels_only():
    network = flexi()
    x, lam = fields(16)
    names = used(network, x, lam)
    shared = ("embed.", "stem.", "gain.", "head.")
    own = {name.rsplit(".", 1)[0] for name in names if not name.startswith(shared)}
    levels = {tuple(name.split(".")[:2]) for name in own}
    assert levels == {
        *[("down", "1"), ("down", "2"), ("up", "1")],
        *[("coarsen", "1"), ("refine", "1"), ("enter", "0"), ("leave", "0")],
    }
    assert {name.split(".")[0] for name in used(network, *fields(8))} == {
        *["embed", "stem", "gain", "head"],
        *["down", "enter", "leave"],
    }


def test_raising_goes_up_further_than_down():
    network = flexi()
    x, lam = fields(8)
    assert network(x, lam, 32).shape == (3, 1, 32, 32)
    levels = {tuple(name.split(".")[:2]) for name in used(network, x, lam, 32)}
    assert {("up", "0"), ("up", "1"), ("refine", "0"), ("refine", "1"), ("enter", "1")} <= levels
    assert not {("down", "0"), ("down", "1"), ("leave", "0"), ("leave", "1")} & levels


def test_raising_adds_nothing_where_there_is_no_skip():
    """As if the skips of the levels above were zero fields."""
    network = flexi()
    x, lam = fields(16)
    e = network.embedded(lam)
    h = network.enter[0](network.patches(x))
    skip = network.down[1](h, e)
    h = network.down[2](network.coarsen[1](skip), e)
    h = network.up[1](nn.functional.pixel_shuffle(network.refine[1](h), 2) + skip, e)
    up = nn.functional.pixel_shuffle(network.refine[0](h), 2)
    wanted = network.read(network.up[0](up + torch.zeros_like(up), e), e)
    assert torch.equal(network(x, lam, 32), wanted)


@given(st.integers(1, 5), st.sampled_from([1, 2]), st.data())
def test_any_number_of_levels(levels, patch, data):
    size = 4 * patch * 2**levels
    network = flexi(size, (4,) * levels, patch)
    entry = data.draw(st.integers(0, levels - 1))
    end = data.draw(st.integers(0, entry))
    assert network.entry(size // 2**entry) == entry
    x, lam = fields(size // 2**entry)
    assert network(x, lam, size // 2**end).shape[-1] == size // 2**end


def test_what_it_cannot_take():
    network = flexi()
    _, lam = fields(16)
    with pytest.raises(ValueError, match="multiples of 2"):
        network(fields(9)[0], lam)
    with pytest.raises(ValueError, match="cannot take 16 x 16 fields to 64 x 64"):
        network(fields(16)[0], lam, 64)
    with pytest.raises(ValueError, match="cannot take 16 x 16 fields to 24 x 24"):
        network(fields(16)[0], lam, 24)
    with pytest.raises(ValueError, match="cannot take 16 x 16 fields to 8 x 8"):
        network(fields(16)[0], lam, 8)
