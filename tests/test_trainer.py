"""One step of a training: what it draws, averages and computes, and what can be handed in."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import small_runs
import torch
from small_runs import CLOSE, assert_equal

from skild_physics.config import parse_config
from skild_physics.machine import World
from skild_physics.models.objective import SkildObjective
from skild_physics.training.trainer import Trainer, learning_rate

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


def test_learning_rate_warms_up_holds_and_decays(values):
    values["training"]["steps"] = 60
    s = parse_config(values).training
    rates = [learning_rate(s, step) for step in range(s.steps)]
    assert rates[0] == pytest.approx(s.learning_rate / 6)
    assert max(rates) == s.learning_rate
    assert rates[-1] < 0.01 * s.learning_rate
    assert all(b <= a for a, b in pairwise(rates[10:]))
    published = s.model_copy(update={"hold": 1.0})
    assert {learning_rate(published, step) for step in range(5, 60)} == {s.learning_rate}


def test_weights_are_averaged_over_about_ten_steps_at_first(values):
    """a <- d_i a + (1 - d_i) w with d_i = min(ema, (1 + i) / (10 + i)), from the first weights."""
    values["training"] |= {"ema": 0.4}
    trainer = Trainer(parse_config(values), ALONE, print)
    expected = None
    for step in range(8):
        trainer.step(step)
        weights = [p.detach().double().clone() for p in trainer.network.parameters()]
        if expected is None:
            expected = weights
        else:
            decay = min(0.4, (1 + step) / (10 + step))
            expected = [decay * a + (1 - decay) * w for a, w in zip(expected, weights, strict=True)]
    found = list(trainer.model(8).network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(found, weights, strict=True))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)


def test_an_objective_can_be_handed_in(values):
    """What a run of another prediction minimises gives that run's losses, and no others."""
    settings = values["training"] | {"prediction": "x0"}

    class Told(SkildObjective):
        called = 0

        def losses(self, *arguments):
            self.called += 1
            return super().losses(*arguments)

    config, other = parse_config(values), parse_config(values | {"training": settings})
    process = config.process.build(*config.process.modes())
    own = Told(process, other.training)
    trainers = [
        Trainer(config, ALONE, print, objective=own),
        Trainer(other, ALONE, print),
        Trainer(config, ALONE, print),
    ]
    handed, wanted, plain = ([t.step(step).loss for step in range(3)] for t in trainers)
    assert handed == wanted
    assert handed != plain
    assert own.called == 3


def test_a_network_can_be_handed_in(values):
    """It is what is trained and averaged, and starts as it was."""

    class Halved(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, lam):
            return self.network(x, lam) / 2

    config = parse_config(values)
    process = config.process.build(*config.process.modes())
    torch.manual_seed(config.training.seed)
    own = Halved(config.build_network(process, 1))
    trainer, plain = Trainer(config, ALONE, print, network=own), Trainer(config, ALONE, print)
    assert trainer.network is own
    assert trainer.parameters == plain.parameters
    for a, b in zip(own.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(a, b)
    before = [w.detach().clone() for w in own.parameters()]
    losses = [each.step(0).loss for each in (trainer, plain)]
    assert losses[0] != losses[1]
    assert any(not torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    assert isinstance(trainer.average.module, Halved)


def test_half_precision_trains_like_float32(values):
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        values["training"] |= {"precision": precision, "clip": 0.5}
        trainer = Trainer(parse_config(values), ALONE, print)
        assert f", {precision}, " in trainer.summary()
        found = [trainer.step(step) for step in range(12)]
        losses[precision] = np.array([(step.loss, step.gradient_norm) for step in found])
        assert all(w.dtype == torch.float32 for w in trainer.network.parameters())
    for precision in ("bfloat16", "float16"):
        assert not np.array_equal(losses[precision], losses["float32"])
        # a step of float16 may be skipped while its scale adapts, which the norms show
        tolerance = {"bfloat16": 0.02, "float16": 0.005}[precision]
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=tolerance)


@pytest.mark.parametrize(("processes", "accumulate"), [(3, 1), (2, 16), (1, 16), (4, 8)])
def test_batches_that_cannot_be_shared_out(values, processes, accumulate):
    values["training"] |= {"batch_size": 16, "accumulate": accumulate}
    config = parse_config(values)
    if processes == 1:
        assert Trainer(config, ALONE, print).part == 1
        return
    with pytest.raises(ValueError, match=f"batch_size = 16 .* {processes} processes") as error:
        Trainer(config, World(0, processes, torch.device("cpu")), print)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", CLOSE)
def test_parts_of_a_batch_are_the_batch(values, precision):
    """However it is shared out: losses, gradients, weights."""
    close = CLOSE[precision]
    values["training"] |= {"clip": 0.1, "precision": precision}
    found = []
    for accumulate in (1, 2, 4):
        values["training"]["accumulate"] = accumulate
        trainer = Trainer(parse_config(values), ALONE, print)
        steps = [trainer.step(step) for step in range(10)]
        numbers = np.array([(step.loss, step.gradient_norm) for step in steps])
        found.append((numbers, [w.detach().clone() for w in trainer.network.parameters()]))
        if accumulate == 1:
            first = [w.detach().clone() for w in trainer.network.parameters()]
    assert found[0][0][:, 1].min() > 0.1
    for numbers, weights in found[1:]:
        np.testing.assert_allclose(numbers, found[0][0], rtol=close.norm)
        for w, expected in zip(weights, first, strict=True):
            torch.testing.assert_close(w, expected, rtol=0, atol=close.weight)


def test_fields_prepared_ahead_are_those_of_their_step(values, monkeypatch):
    """Whatever step was done before."""
    trainer = Trainer(parse_config(values), ALONE, print)
    one_by_one = [trainer._fields(step) for step in range(6)]
    for step in (3, 3, 0, 5, 4, 1, 2):
        assert torch.equal(trainer._fields(step), one_by_one[step])
    monkeypatch.setattr(
        "skild_physics.training.trainer.DistributedDataParallel", lambda network, **_: network
    )
    other = Trainer(parse_config(values), World(1, 4, torch.device("cpu")), print)
    assert torch.equal(other._fields(2), one_by_one[2][4:8])


@pytest.mark.parametrize("kind", ["nan", "inf", "finite losses", "gradient"])
def test_what_became_infinite_is_named_and_nothing_moves(values, kind):
    values["training"] |= {"timesteps": "second-moment", "batch_size": 128}
    trainer = Trainer(parse_config(values), ALONE, print)
    trainer.step(0)

    def kept():
        state = trainer.state()
        return state | {"optimizer": state["optimizer"]["state"]}

    before = copy.deepcopy(kept())
    told = []

    def broken(x, lam):
        output = trainer.network(x, lam)
        if kind == "gradient":
            return output + 0 * (0 * output).abs().sqrt()
        if kind == "finite losses":
            # the sum of squares over a field fits into float32, that over a batch does not
            return output + 2e18
        told.append(trainer.process.step_at(float(lam[5]) / trainer.process.N**2))
        return output + torch.where(torch.arange(128)[:, None, None, None] == 5, float(kind), 0.0)

    trainer.runner = broken
    with pytest.raises(FloatingPointError, match=r"^the (loss|gradient) became .* at step 1"):
        trainer.step(1)
    assert_equal(kept(), before)
    if told:
        with pytest.raises(FloatingPointError, match=f"n = {told[0]:.1f}$"):
            trainer.step(1)
