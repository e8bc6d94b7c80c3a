"""A network, a loss and an objective of one's own, through the same calls as all others."""

import json

import numpy as np
import pytest
import small_runs
import torch
from torch import nn

import skild_physics as sk
from skild_physics.models.objective import SkildObjective

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)

QUICK = (
    "training.batch_size=16",
    "training.checkpoint_every=5",
    "training.compile=false",
    "training.precision=float32",
    "training.threads=1",
)
HOW = {"sampler": sk.Multistep(3), "batch_size": 4}


class Own(nn.Module):
    """Two convolutions, which know lambda as a further channel."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(2, width, 3, padding=1, padding_mode="circular")
        self.last = nn.Conv2d(width, 1, 3, padding=1, padding_mode="circular")

    def forward(self, x, lam):
        told = lam.log()[:, None, None, None].expand_as(x)
        return self.last(torch.tanh(self.first(torch.cat([x, told], dim=1))))


def absolute_error(output, target):
    return (output - target).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def lattices():
    return sk.generate_ising(16, samples=200, seed=1)


@pytest.fixture(scope="module")
def trained(lattices, tmp_path_factory):
    """A run of both, and the losses that it was told of."""
    out, losses = tmp_path_factory.mktemp("own") / "run", []

    def noted(output, target):
        found = absolute_error(output, target)
        losses.append((output.detach().clone(), target.clone(), float(found.detach().mean())))
        return found

    torch.manual_seed(3)
    own = Own()
    model = sk.train(
        "ising64",
        data=lattices,
        steps=20,
        out=out,
        overrides=QUICK,
        loss=noted,
        network=own,
    )
    return out, model, own, losses


def test_they_are_what_is_trained(trained):
    out, model, own, losses = trained
    assert model.network is own
    assert model.trained_steps == 20
    assert model.size == 16
    assert model.channels == ("spin",)
    assert "Own with" in repr(model)
    assert (out / "model.safetensors").exists()
    # one call a step at least, of fields of the lattice that was drawn
    assert len(losses) >= 20
    for output, target, value in losses:
        assert output.shape == target.shape
        assert output.shape[1] == 1
        assert np.isfinite(value)
    assert {output.shape[-1] for output, *_ in losses} <= {4, 8, 12, 16}


def test_a_model_of_them_samples(trained, lattices):
    _, model, _, _ = trained
    made = model.generate(4, **HOW)
    assert made.shape == (4, 16, 16)
    again = model.reconstruct(lattices[:4], 2, **HOW)
    coarse = sk.coarse_grain(lattices[:4], factor=2)
    fine = model.super_resolve(coarse, 2, **HOW)
    for fields in (made, again, fine):
        assert np.isfinite(fields.values).all()
        assert float(fields.std()) > 0.1
    assert fine.consistency_residual < 1e-4


def test_the_same_call_loads_what_was_trained(trained, lattices):
    out, model, _, _ = trained
    wanted = model.generate(2, **HOW)

    def never(output, target):
        pytest.fail("trained again")

    torch.manual_seed(9)
    fresh = Own()
    again = sk.train(
        "ising64",
        data=lattices,
        steps=20,
        out=out,
        overrides=QUICK,
        loss=never,
        network=fresh,
    )
    assert again.network is fresh
    np.testing.assert_array_equal(again.generate(2, **HOW), wanted)


def test_loading_needs_the_network(trained):
    out, model, _, _ = trained
    with pytest.raises(
        sk.InputError, match=r"weights do not fit the network .* pass the `network`"
    ):
        sk.load(out)
    loaded = sk.load(out, network=Own())
    for a, b in zip(loaded.network.parameters(), model.network.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(sk.InputError, match="do not fit the `network` that was passed"):
        sk.load(out, network=Own(width=4))


def interrupted(step):
    """A loss that is interrupted in a step."""
    calls = []

    def loss(output, target):
        calls.append(len(output))
        if len(calls) == step:
            raise KeyboardInterrupt
        return absolute_error(output, target)

    return loss


def test_an_interrupted_run_of_them_goes_on_as_if_it_had_not_been(lattices, tmp_path):
    def train(name, loss, network):
        return sk.train(
            "ising64",
            data=lattices,
            steps=12,
            out=tmp_path / name,
            overrides=QUICK,
            loss=loss,
            network=network,
        )

    def fresh():
        torch.manual_seed(4)
        return Own()

    whole = train("whole", absolute_error, fresh())
    with pytest.raises(KeyboardInterrupt):
        train("half", interrupted(9), fresh())
    assert not (tmp_path / "half" / "state.previous.pt").exists()
    # an untrained network of other weights: those of the state are what goes on
    half = train("half", absolute_error, Own())
    for a, b in zip(whole.network.parameters(), half.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_loss_is_what_is_minimised(lattices, tmp_path):
    """Each learns to do better in its own measure; a loss ten times as large is told as such."""
    told = {}
    for name, loss in (
        ("one", absolute_error),
        ("ten", lambda output, target: 10 * absolute_error(output, target)),
    ):
        sk.train(
            "ising64",
            data=lattices,
            steps=1,
            out=tmp_path / name,
            overrides=(*QUICK, "network.channels=[8]", "network.blocks=[1]"),
            loss=loss,
        )
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        told[name] = json.loads(lines[0])["loss"]
    assert told["ten"] == pytest.approx(10 * told["one"], rel=1e-5)


def test_an_objective_of_ones_own(lattices, tmp_path):
    """Where a loss is not enough: here, only steps of little noise count."""

    drawn = []

    class Late(SkildObjective):
        def draw(self, count, generator):
            at, n = super().draw(count, generator)
            drawn.append(n / 2)
            return at, n / 2

    plain = sk.load_config("ising64", QUICK)
    small = ("network.channels=[8]", "network.blocks=[1]")
    first = sk.train(
        "ising64", data=lattices, steps=1, out=tmp_path / "first", overrides=(*QUICK, *small)
    )
    settings = plain.training.model_copy(update={"snr_threshold": None})
    own = Late(first.process, settings)
    model = sk.train(
        "ising64",
        data=lattices,
        steps=5,
        out=tmp_path / "own",
        overrides=(*QUICK, *small),
        objective=own,
    )
    assert len(drawn) == 5
    assert all(float(n.max()) <= model.process.T / 2 for n in drawn)


def test_a_loss_that_would_not_be_read_is_refused(lattices, tmp_path):
    weighed = (*QUICK, "training.shell_weight=true")
    how = {"data": lattices, "steps": 1, "loss": absolute_error, "out": tmp_path / "run"}
    with pytest.raises(sk.InputError, match=r"`loss`: .*shell_weight"):
        sk.train("ising64", overrides=weighed, **how)
    own = SkildObjective(sk.load("bundled").process, sk.load_config("ising64").training)
    with pytest.raises(sk.InputError, match="`loss` goes without `objective`"):
        sk.train("ising64", overrides=QUICK, objective=own, **how)


def test_the_network_of_another_size_is_not_asked_about_sides(tmp_path):
    """What the configuration's own network could not take, one's own may."""
    fields = sk.generate_ising(10, samples=120, seed=1)
    model = sk.train(
        "ising64",
        data=fields,
        steps=2,
        out=tmp_path / "ten",
        overrides=(*QUICK, "training.active_multiple=5"),
        network=Own(),
    )
    assert model.generate(1, **HOW).shape == (1, 10, 10)
    own = Own()
    own.multiple = 4
    with pytest.raises(sk.InputError, match="`network`: takes sides that are multiples of 4"):
        sk.train("ising64", data=fields, steps=2, out=tmp_path / "four", network=own)
