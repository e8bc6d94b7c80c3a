"""What training minimises: of SKILD, and of Scale Space Diffusion."""

import math

import numpy as np
import pytest
import torch

from skild_physics.config import load_config
from skild_physics.config.training import TrainingConfig
from skild_physics.diffusion.adaptive import active_size
from skild_physics.diffusion.prediction import PREDICTIONS, target
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.resize import DEGRADATIONS
from skild_physics.diffusion.scale_space import ScaleSpace, level_ends
from skild_physics.diffusion.scale_space_reverse import estimator
from skild_physics.diffusion.schedule import LinearBetaSchedule, linear_to_resolution
from skild_physics.kspace import BASES, forward, inverse, wavenumbers
from skild_physics.models.objective import (
    ScaleSpaceObjective,
    SkildObjective,
    Task,
    field_noise,
    squared_error,
    training_losses,
)

BETAS = LinearBetaSchedule(0.1, 20.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def steep_process(N=8, basis="periodic", resolution=2.0, k_c=0.0):
    S0 = torch.tensor(3 * (wavenumbers(N, basis) ** 2 + 9) ** -0.8)
    return Process(S0, linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def space_of(sizes, kind="box", basis="periodic"):
    return ScaleSpace(sizes, level_ends(len(sizes), 1000), BETAS, kind, basis)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("M", [8, 4])
def test_loss_of_a_perfect_network_is_zero(prediction, M):
    """A network that is told x_0 and solves for what is asked, on all modes or on the low ones."""
    process = steep_process(k_c=3.0).cropped(M)
    asked = TrainingConfig(prediction=prediction)
    fields = torch.randn(16, 3, 8, 8, generator=seeded())
    n = torch.linspace(20, 1000, 16, dtype=torch.float64)
    x_0 = forward(fields.double(), "periodic")[..., :M, :M] * (M / 8)

    def perfect(x, lam):
        assert torch.allclose(lam.double(), process.lam(n) * M**2, rtol=1e-5)
        alpha, sigma = process.marginal(n[:, None])
        eps = (forward(x.double(), "periodic") - alpha * x_0) / sigma
        wanted = target(prediction, process, n[:, None], x_0, eps)
        return inverse(wanted, "periodic").float()

    eps = torch.randn(16, 3, M, M, generator=seeded(1))
    for weighted in (False, True):
        chosen = asked.model_copy(update={"shell_weight": weighted})
        losses = training_losses(perfect, process, chosen, fields, n, eps)
        assert losses.shape == (16,)
        assert float(losses.max()) < 1e-6
        zero = training_losses(lambda x, lam: 0 * x, process, chosen, fields, n, eps)
        assert float(zero.min()) > 1e-3


def test_weighed_by_shells_w_and_v_have_the_same_loss():
    """The published loss of w is whitened: W |f - w|^2 / S0, where w = sqrt(S0) v."""
    process = steep_process(16)
    fields = torch.randn(6, 2, 16, 16, generator=seeded())
    n, eps = torch.linspace(1, 1000, 6).double(), torch.randn(6, 2, 16, 16, generator=seeded(1))

    def v(x, lam):
        return torch.tanh(x)

    def w(x, lam):
        root = process.S0.sqrt().float()
        return inverse(root * forward(v(x, lam), process.basis), process.basis)

    by_v, by_w = (
        training_losses(
            f, process, TrainingConfig(prediction=name, shell_weight=True), fields, n, eps
        )
        for name, f in (("v", v), ("w", w))
    )
    torch.testing.assert_close(by_w, by_v, rtol=1e-4, atol=0)


def absolute_error(output, target):
    return (output - target).abs().mean(dim=(1, 2, 3))


def test_the_loss_is_that_of_the_output_and_its_target():
    """Of either kind; the squared error is the default."""
    fields = torch.randn(6, 2, 16, 16, generator=seeded())
    n, eps = torch.full((6,), 300.0).double(), torch.randn(6, 2, 16, 16, generator=seeded(1))
    settings, process = TrainingConfig(prediction="eps"), steep_process(16)

    def constant(x, lam):
        return torch.full_like(x, 0.3)

    for loss in (squared_error, absolute_error):
        skild = SkildObjective(process, settings, loss=loss)
        # what is predicted is the noise itself
        wanted = inverse(eps, process.basis)
        found = skild.losses(constant, process, fields, n, eps)
        torch.testing.assert_close(found, loss(constant(wanted, None), wanted), rtol=1e-4, atol=0)
        seen = []

        def both(output, wanted, loss=loss, seen=seen):
            seen.append((output, wanted))
            return loss(output, wanted)

        space = ScaleSpaceObjective(space_of((16, 8)), TrainingConfig(), both)
        found = space.losses(constant, Task(0, 0, 16), fields, n, eps)
        torch.testing.assert_close(found, loss(*seen[0]))
    plain = SkildObjective(process, settings).losses(constant, process, fields, n, eps)
    squared = SkildObjective(process, settings, loss=squared_error)
    assert torch.equal(plain, squared.losses(constant, process, fields, n, eps))


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
@pytest.mark.parametrize("task", [Task(0, 0, 16), Task(1, 1, 8), Task(1, 0, 8), Task(2, 1, 4)])
def test_a_network_without_loss_gives_x_0(kind, prediction, task):
    """A network that is told x_0 and solves for what is asked has no loss, and its estimate is x_0.

    The target is solved for with the estimate that sampling uses.
    """
    space = space_of((16, 8, 4), kind)
    settings = TrainingConfig(prediction=prediction)
    fields = torch.randn(6, 2, 16, 16, generator=seeded())
    wanted = space.degraded(fields, task.end)
    side = space.sizes[task.end]
    n = torch.full((6,), float(space.ends[task.level - 1]) if task.level else 300.0).double()
    eps = torch.randn(6, 2, task.N, task.N, generator=seeded(1))
    asked = []

    def nothing(x, lam, side=None):
        asked.append(x)
        return torch.zeros(len(x), 2, side or x.shape[-1], side or x.shape[-1])

    def one(x, lam, side=None):
        return 1 + nothing(x, lam, side)

    def perfect(x, lam, side=None):
        x_n = x * space.scale(task.N)
        offset = estimator(nothing, space, prediction)(x_n, float(n[0]), wanted.shape[-1])
        slope = estimator(one, space, prediction)(x_n, float(n[0]), wanted.shape[-1]) - offset
        return (wanted - offset) / slope

    tasks = ScaleSpaceObjective(space, settings)
    losses = tasks.losses(perfect, task, fields, n, eps)
    assert losses.shape == (6,)
    assert float(losses.max()) < 1e-6
    x_n = asked[0] * space.scale(task.N)
    assert torch.allclose(
        estimator(perfect, space, prediction)(x_n, float(n[0]), side), wanted, atol=1e-3
    )
    # the input is the forward marginal
    alpha, sigma = (float(c[0, 0]) for c in space.levels[0].marginal(float(n[0])))
    assert torch.allclose(x_n, alpha * space.degraded(fields, task.level) + sigma * eps, atol=1e-5)
    assert float(tasks.losses(nothing, task, fields, n, eps).min()) > 1e-3


# those that published code calls snr, inv_snr, trunc_snr, min_snr_k and max_snr_k
WEIGHTS = {
    "snr": ({"min_snr": math.inf}, lambda snr: snr),
    "inv_snr": ({"inverse_snr": True}, lambda snr: 1 / snr),
    "trunc_snr": ({"max_snr": 1.0}, lambda snr: max(snr, 1)),
    "min_snr_5": ({"min_snr": 5.0}, lambda snr: min(snr, 5)),
    "max_snr_0.3": ({"max_snr": 0.3}, lambda snr: max(snr, 0.3)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_the_error_of_x_0(name):
    """Whatever is predicted, the loss is the weight at SNR times the squared error of x_0."""
    given, weigh = WEIGHTS[name]
    space = space_of((8, 4))
    fields = torch.randn(5, 1, 8, 8, generator=seeded())
    n = torch.tensor([1.0, 30.0, 100.0, 300.0, 700.0]).double()
    eps = torch.randn(5, 1, 8, 8, generator=seeded(1))
    estimates = []

    def network(x, lam):
        estimates.append(x)
        return 0.3 * x + 0.1

    for prediction in ("x0", "v", "eps"):
        settings = TrainingConfig(prediction=prediction, **given)
        losses = ScaleSpaceObjective(space, settings).losses(network, Task(0, 0, 8), fields, n, eps)
        x_n, estimate = estimates[-1], estimator(network, space, prediction)
        for i, step in enumerate(n.tolist()):
            x_0 = estimate(x_n[i : i + 1], step, 8)
            abar = np.exp(-space.u(step))
            wanted = weigh(abar / (1 - abar)) * float((x_0 - fields[i]).square().mean())
            assert float(losses[i]) == pytest.approx(wanted, rel=1e-4)


def test_one_weight_and_none_without_a_scale_space():
    with pytest.raises(ValueError, match="give one of min_snr and inverse_snr"):
        load_config("celeba64-ssd", ("training.inverse_snr=true",))
    with pytest.raises(ValueError, match=r"training\.max_snr: goes with process\.kind"):
        load_config("cifar10-linear", ("training.max_snr=1",))


def test_noise_of_a_field_is_its_own():
    """Neither who is computed beside it, nor where, changes it."""
    seeds = [3, 2**64 - 1, 5, 2**63]
    whole = field_noise(seeds, (3, 8, 8), torch.device("cpu"))
    for i, seed in enumerate(seeds):
        assert torch.equal(field_noise([seed], (3, 8, 8), torch.device("cpu"))[0], whole[i])
    many = field_noise(range(2000), (1, 8, 8), torch.device("cpu"))
    covariance = many.flatten(1).T @ many.flatten(1) / 2000
    assert float((covariance - torch.eye(64)).abs().max()) < 5 * math.sqrt(2 / 2000)
    between = many.flatten(1) @ many.flatten(1).T / 64 - torch.eye(2000)
    assert float(between.abs().max()) < 6.5 * math.sqrt(2 / 64)


def test_levels_of_live_modes_are_drawn_as_often_as_their_steps():
    process = Process(torch.ones(16, 16), linear_to_resolution(16, 2, 9, 0.1), "cosine")
    asked = TrainingConfig(snr_threshold=0.1, active_multiple=4)
    levels, generator = SkildObjective(process, asked), seeded()
    drawn = []
    for _ in range(2000):
        at, n = levels.draw(2, generator)
        assert all(active_size(process, float(step), 0.1, 4) == at.N for step in n)
        drawn.extend(n.tolist())
    # uniform in (0, T] all in all; the two steps of a draw share a level
    share = np.histogram(drawn, np.linspace(0, 1000, 11))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 4.5 * np.sqrt(0.09 / 2000)


def test_levels_are_drawn_as_often_as_their_steps_and_changes_as_asked():
    space = space_of((16, 8, 4))
    tasks, generator = ScaleSpaceObjective(space, TrainingConfig(level_changes=0.25)), seeded()
    count, drawn, raised = 4000, [], []
    for _ in range(count):
        task, n = tasks.draw(2, generator)
        assert space.sizes[task.level] == task.N
        if task.end < task.level:
            assert task.end == task.level - 1
            assert (n == space.ends[task.end]).all()
            raised.append(task.level)
        else:
            assert {space.level(float(step)) for step in n} == {task.level}
            drawn.extend(n.tolist())
    sigma = np.sqrt(0.25 * 0.75 / count)
    assert abs(len(raised) / count - 0.25) < 4.5 * sigma
    assert abs(raised.count(1) / len(raised) - 0.5) < 4.5 * np.sqrt(0.25 / len(raised))
    share = np.histogram(drawn, np.linspace(0, 1000, 11))[0] / len(drawn)
    assert np.abs(share - 0.1).max() < 4.5 * np.sqrt(0.09 / (len(drawn) / 2))
    with_one = ScaleSpaceObjective(space_of((16,)), TrainingConfig(level_changes=0.9))
    assert all(with_one.draw(1, generator)[0] == Task(0, 0, 16) for _ in range(20))


def test_the_periodic_basis_goes_around_the_torus():
    """Nothing in the process knows where the lattice begins."""
    space = space_of((16, 8), "bilinear")
    x = torch.randn(1, 1, 16, 16, generator=seeded()).double()
    moved = space.degraded(x.roll((2, 4), (-2, -1)), 1)
    assert torch.allclose(moved, space.degraded(x, 1).roll((1, 2), (-2, -1)), atol=1e-12)
    assert BASES == ("cosine", "periodic")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_means_have_the_average_gradient_of_the_fields_that_they_are_of(prediction):
    """Two fields that noise took to the same x_n, and their mean."""
    process, settings = steep_process(k_c=3.0), TrainingConfig(prediction=prediction)
    n = torch.tensor([600.0, 900.0], dtype=torch.float64)
    alpha, sigma = (each.float() for each in process.marginal(n[:, None]))
    fields = torch.randn(2, 2, 1, 8, 8, generator=seeded())
    first = forward(fields[0], "periodic")
    eps = torch.randn(2, 1, 8, 8, generator=seeded(1))
    x_n = alpha * first + sigma * eps
    other = (x_n - alpha * forward(fields[1], "periodic")) / sigma

    def gradient(fields, eps, means=None):
        weight = torch.tensor(0.3, requires_grad=True)
        losses = training_losses(
            lambda x, lam: weight * torch.tanh(x), process, settings, fields, n, eps, means=means
        )
        losses.mean().backward()
        return weight.grad

    each = [gradient(fields[0], eps), gradient(fields[1], other)]
    seen = []

    def means(x):
        seen.append(x)
        return fields.mean(dim=0)

    found = gradient(fields[0], eps, means)
    torch.testing.assert_close(seen[0], x_n)
    torch.testing.assert_close(found, sum(each) / 2, rtol=1e-4, atol=1e-5)
    assert abs(each[0] - each[1]) > 5e-3 * abs(found)
