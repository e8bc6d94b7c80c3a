import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import processes

from skild_physics.diffusion.loss import LossSecondMomentSteps, shell_weight
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule


@given(processes(), st.floats(0.001, 1))
def test_shell_weight_is_the_signal_that_a_step_removes(process, fraction):
    n = fraction * process.T
    weight = shell_weight(process, n)
    assert bool(torch.isfinite(weight).all())
    assert float(weight.mean()) == pytest.approx(1, rel=1e-12)
    abar = {step: process.marginal(step).alpha ** 2 for step in (n, max(n - 1, 0))}
    removed = abar[max(n - 1, 0)] - abar[n]
    # the plain difference of the definition is good only where it loses no digits
    if float(removed.max()) > 1e-6:
        torch.testing.assert_close(weight, removed / removed.mean(), rtol=1e-8, atol=1e-8)
    assert (weight[process.frozen] == 0).all()


def test_shell_weight_of_a_batch_of_steps():
    process = Process(torch.ones(6, 6), LinearSchedule(20, 2, 5), "periodic", k_c=0.0)
    n = torch.tensor([0.5, 1.0, 400.0, 1000.0])
    together = shell_weight(process, n)
    for i, step in enumerate(n.tolist()):
        torch.testing.assert_close(together[i], shell_weight(process, step), rtol=1e-12, atol=0)


def test_shell_weight_where_nothing_is_left():
    """abar underflows in every mode, and the weight goes to the modes that last longest."""
    process = Process(torch.ones(4, 4), LinearSchedule(3, 0.1, 10), "cosine", k_c=8.0)
    weight = shell_weight(process, 1000)
    assert float(process.marginal(999).alpha.max()) == 0
    below_k_c = process.exponent(1) == process.exponent(1).min()
    assert float(weight[below_k_c].sum()) == pytest.approx(16)


def full_of(losses, history=4, **options):
    """Steps whose every bin b remembers ``history`` losses losses[b]."""
    bins = len(losses)
    steps = LossSecondMomentSteps(1000, bins, history, **options)
    middle = (torch.arange(bins) + 0.5) * 1000 / bins
    for _ in range(history):
        steps.update(middle, torch.as_tensor(losses))
    return steps


def test_steps_are_uniform_until_every_history_is_full():
    steps = LossSecondMomentSteps(1000, bins=5, history=3)
    middle = torch.tensor([100.0, 300.0, 500.0, 700.0, 900.0])
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    for _ in range(3):
        assert steps.probabilities().tolist() == [0.2] * 5
        steps.update(middle[:4], losses[:4])
    for _ in range(3):
        assert steps.probabilities().tolist() == [0.2] * 5
        drawn = steps.draw(50, torch.Generator().manual_seed(0))
        assert drawn.factor.tolist() == [1.0] * 50
        steps.update(middle[4:], losses[4:])
    assert steps.probabilities().tolist() != [0.2] * 5


def test_probabilities_follow_the_second_moment():
    steps = full_of([1.0, 2.0, 5.0], uniform=0.0)
    np.testing.assert_allclose(steps.probabilities(), [1 / 8, 2 / 8, 5 / 8], rtol=1e-12)
    steps = full_of([1.0, 2.0, 5.0], uniform=0.3)
    np.testing.assert_allclose(
        steps.probabilities(), 0.7 * np.array([1, 2, 5]) / 8 + 0.1, rtol=1e-12
    )
    # sqrt(E L^2), not E L: losses 0, 0, 0, 4 weigh as much as 2, 2, 2, 2
    steps = full_of([2.0, 2.0], uniform=0.0)
    steps.update(torch.full((4,), 250.0), torch.tensor([0.0, 0.0, 0.0, 4.0]))
    np.testing.assert_allclose(steps.probabilities(), [0.5, 0.5], rtol=1e-12)


def test_only_recent_losses_count():
    steps = full_of([1.0, 1.0], history=3, uniform=0.0)
    steps.update(torch.full((5,), 900.0), torch.tensor([7.0, 9.0, 3.0, 3.0, 3.0]))
    np.testing.assert_allclose(steps.probabilities(), [1 / 4, 3 / 4], rtol=1e-12)


def test_losses_are_filed_under_the_bin_their_step_was_drawn_from():
    steps = full_of(np.ones(7), history=1, uniform=0.0)
    drawn = steps.draw(20_000, torch.Generator().manual_seed(1))
    assert float(drawn.n.min()) > 0
    assert float(drawn.n.max()) <= 1000
    steps.update(drawn.n, (torch.ceil(drawn.n * 7 / 1000)))
    np.testing.assert_allclose(steps.probabilities(), np.arange(1, 8) / 28, rtol=1e-12)
    # a bin includes its end, as (0, T] does
    steps = full_of([1.0, 1.0], history=1, uniform=0.0)
    steps.update(torch.tensor([500.0, 1000.0]), torch.tensor([3.0, 5.0]))
    np.testing.assert_allclose(steps.probabilities(), [3 / 8, 5 / 8], rtol=1e-12)


def test_importance_sampling_is_unbiased():
    steps = full_of([0.2, 3.0, 1.0, 0.5, 7.0], uniform=0.05)
    count = 200_000
    n, factor = steps.draw(count, torch.Generator().manual_seed(3))
    assert float(factor.std()) > 0.5
    t = n / 1000
    for f, mean in (
        (torch.ones_like(t), 1.0),
        (t, 1 / 2),
        (t**2, 1 / 3),
        (torch.cos(9 * t), np.sin(9) / 9),
    ):
        weighted = f * factor
        assert abs(float(weighted.mean()) - mean) < 4 * float(weighted.std()) / np.sqrt(count)


def test_importance_sampling_reduces_the_variance_of_the_loss():
    """Of a loss known per bin, without the uniform share, nothing fluctuates."""
    losses = torch.tensor([0.2, 3.0, 1.0, 0.5, 7.0])
    steps = full_of(losses, uniform=0.0)
    n, factor = steps.draw(1000, torch.Generator().manual_seed(3))
    weighted = losses[(torch.ceil(n / 200) - 1).long()] * factor
    np.testing.assert_allclose(weighted, float(losses.mean()), rtol=1e-6)


def test_saved_state_goes_on_identically():
    generator = torch.Generator().manual_seed(4)
    one = full_of([1.0, 2.0, 3.0], history=2)
    one.update(torch.tensor([100.0]), torch.tensor([9.0]))
    state = one.state_dict()
    other = LossSecondMomentSteps(1000, 3, 2)
    other.load_state_dict(state)
    for _ in range(3):
        seed = int(torch.randint(1000, (), generator=generator))
        a, b = (s.draw(16, torch.Generator().manual_seed(seed)) for s in (one, other))
        assert torch.equal(a.n, b.n)
        assert torch.equal(a.factor, b.factor)
        losses = torch.rand(16, generator=generator)
        # each on its own: a shared memory would remember every loss twice
        one.update(a.n, losses)
        other.update(b.n, losses)
        assert torch.equal(one.probabilities(), other.probabilities())
    again = LossSecondMomentSteps(1000, 3, 2)
    again.load_state_dict(state)
    assert not torch.equal(again.probabilities(), one.probabilities())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins .* 0"),
        ({"history": 0}, "history .* 0"),
        ({"uniform": 1.5}, r"uniform .* 1\.5"),
        ({"uniform": float("nan")}, "uniform .* nan"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        LossSecondMomentSteps(1000, **options)
