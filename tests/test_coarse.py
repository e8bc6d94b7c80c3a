"""SKILD that may be conditioned on a coarse field: what the network sees, starts, results, runs."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_runs import (
    assert_equal,
    interrupted_and_resumed,
    make_inputs,
    one_thread,
    run_values,
)

import skild_physics as sk
from skild_physics import kspace
from skild_physics.config import parse_config
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.fields.downsampling import DOWNSAMPLINGS, downsample
from skild_physics.files import InputError
from skild_physics.machine import World
from skild_physics.models.checkpoint import build_model, load
from skild_physics.models.coarse import (
    CoarseObjective,
    CoarseTask,
    Conditions,
)
from skild_physics.models.objective import SkildObjective
from skild_physics.training.run import run
from skild_physics.training.trainer import Trainer

quick = pytest.fixture(autouse=True, scope="module")(one_thread)

N = 32
KERNELS = {"box": 2.0, "spectral": 1.0, "gaussian": 1.0, "bicubic": 1.0, "lanczos": 1.0}
CONDITION = {"factors": [1.5, 8], "kernels": KERNELS, "unconditional": 0.25, "whole": 0.5}
CONDITION |= {"consistent": True}


def values_of(size=N, basis="periodic", **others):
    law = {"size": size, "C": 0.5, "k0_squared": 3.0, "alpha": 0.9, "basis": basis}
    return {
        "out": ".",
        "data": {"source": "none"},
        "process": {"law": law, "schedule": {"kind": "linear", "resolution": 0.5}, "k_c": 3.0},
        "network": {"channels": [8], "blocks": [1], "patch": 2},
        "condition": CONDITION,
        **others,
    }


def model_of(channels=("spin",), network=None, whitened=False, **others):
    """An untrained model whose network says something."""
    values = values_of(**others)
    values["network"] |= {"whitened": whitened}
    config = parse_config(values)
    torch.manual_seed(1)
    model = build_model(config, channels, *config.process.modes(), network)
    with torch.no_grad():
        for w in model.network.parameters():
            w.add_(0.1 * torch.randn_like(w))
    model.network.eval()
    return model


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(N, samples=12, seed=3)


# what the network sees


@pytest.mark.parametrize(
    ("basis", "mismatch"), [("periodic", True), ("cosine", True), ("cosine", False)]
)
def test_what_is_shown_holds_the_coarse_field_and_nothing_else(basis, mismatch):
    condition = parse_config(values_of(condition={**CONDITION, "consistent": mismatch})).condition
    conditions = Conditions(condition, N, basis, torch.device("cpu"))
    x = torch.randn(2, 3, N, N, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, 3, N, N, generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(2, 3, N, N, generator=torch.Generator().manual_seed(2))
    assert {M for _, M in conditions.all} == set(range(4, 22))
    for number, (kernel, M) in enumerate(conditions.all, start=1):
        seen = conditions.channels(x, torch.tensor([number]), noisy)
        assert seen.shape == (2, condition.inputs(3), N, N)
        y = downsample(x, kernel, M, basis)
        torch.testing.assert_close(downsample(seen[:, :3], kernel, M, basis), y, atol=2e-5, rtol=0)
        if mismatch:
            lacked = downsample(x - noisy, kernel, M, basis)
            found = downsample(seen[:, 3:6], kernel, M, basis)
            torch.testing.assert_close(found, lacked, atol=2e-5, rtol=0)
        # a field of the same coarse field shows the same
        hidden = other - conditions.channels(other, torch.tensor([number]), noisy)[:, :3]
        same = conditions.channels(x + hidden, torch.tensor([number]), noisy)
        torch.testing.assert_close(same, seen, atol=1e-4, rtol=0)
        labels = seen[:, -condition.labels :]
        assert torch.equal(labels, labels[..., :1, :1].expand_as(labels))
        assert labels[0, :-1, 0, 0].tolist() == [float(kernel == each) for each in KERNELS]
        assert float(labels[0, -1, 0, 0]) == pytest.approx(np.log2(N / M) / 2, rel=1e-6)
        # where in its cell a site lies: equal in all cells of whole blocks
        if N % M == 0:
            where = seen[:, 6:10] if mismatch else seen[:, 3:7]
            torch.testing.assert_close(where, where.roll((N // M, N // M), (-2, -1)))
    assert not conditions.channels(x, torch.tensor([0]), noisy).any()


@pytest.mark.parametrize(("kernel", "M"), [("box", 8), ("gaussian", 13)])
def test_sampling_shows_what_training_shows(model, truth, kernel, M):
    seen = []

    def network(x, lam):
        seen.append(x)
        return torch.zeros_like(x[:, :1])

    network.multiple = 2
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    start = replace(model, network=network).observed(M, N / M, kernel)
    y = downsample(x_0, kernel, M, "periodic")
    x_n, denoise = start.draw(y, SampleNoise(0, range(len(y))))
    denoise(x_n, start.n)
    conditions = Conditions(model.condition, N, "periodic", torch.device("cpu"))
    number = 1 + conditions.all.index((kernel, M))
    pixels = kspace.inverse(x_n, "periodic")
    trained = conditions.channels(x_0, torch.tensor([number]), pixels)
    torch.testing.assert_close(seen[0], torch.cat([pixels, trained], dim=1), atol=1e-4, rtol=1e-4)


def test_each_field_of_a_batch_has_a_condition_of_its_own():
    conditions = Conditions(parse_config(values_of()).condition, N, "periodic", torch.device("cpu"))
    x = torch.randn(4, 1, N, N, generator=torch.Generator().manual_seed(0))
    numbers = torch.tensor([0, 3, 40, 90])
    together = conditions.channels(x, numbers, x)
    for field, number, seen in zip(x, numbers, together, strict=True):
        torch.testing.assert_close(
            conditions.channels(field[None], number[None], field[None])[0], seen
        )


def test_conditions_are_drawn_with_their_shares(model):
    objective = CoarseObjective(model)
    task, n = objective.draw(40_000, torch.Generator().manual_seed(5))
    again, _ = objective.draw(40_000, torch.Generator().manual_seed(5))
    assert torch.equal(task.numbers, again.numbers)
    assert float(n.min()) > 0
    assert float(n.max()) <= model.process.T
    conditions = Conditions(model.condition, N, "periodic", torch.device("cpu"))
    assert float(conditions.shares.sum()) == pytest.approx(1)
    counts = torch.bincount(task.numbers, minlength=len(conditions.shares)).double()
    chosen = [(kernel, M) for kernel, M in conditions.all]
    box_4 = 1 + chosen.index(("box", 8))
    ends = torch.tensor([float(model.process.T), *conditions.steps(model.process)])
    assert torch.all(n <= ends[task.numbers])
    # they start where their coarse field leaves nothing to know of the next finer mode
    at_8 = task.numbers == box_4
    assert float(n[at_8].max()) > 0.99 * float(ends[box_4])
    assert float(ends[box_4]) == pytest.approx(model.observed(8, 4, "box").n)
    # 3/4 coarse, a third of these box; the whole factors 2, 4, 8, half the time, and all the same
    expected = {0: 0.25, box_4: 0.25 * (0.5 / 3 + 0.5 / 8 / sum(1 / M for M in range(4, 22)))}
    for number, share in expected.items():
        sigma = (share * (1 - share) / 40_000) ** 0.5
        assert float(counts[number]) / 40_000 == pytest.approx(share, abs=4 * sigma)
    assert (counts > 0).all()


def test_fields_that_are_not_conditioned_may_be_shown_as_active_modes():
    model = model_of(training={"snr_threshold": 0.01})
    objective, T = CoarseObjective(model), float(model.process.T)
    intervals = SkildObjective(model.process, model.config.training).lattices
    (_, _, end), *_ = intervals
    drawn: dict[int, list[float]] = {at.N: [] for at, _, _ in intervals}
    generator, batches, at_once = torch.Generator().manual_seed(8), 1500, 20
    for _ in range(batches):
        task, n = objective.draw(at_once, generator)
        alone = task.numbers == 0
        assert bool(alone.all()) or task.N == N
        drawn[task.N] += n[alone].tolist()
    # a quarter of all fields has none, with n uniform in (0, T]
    share = model.condition.unconditional
    of_full = 1 - share * (1 - end / T)
    for at, first, last in intervals:
        steps, expected = torch.tensor(drawn[at.N]), share * (last - first) / T
        assert bool(((first < steps) & (steps <= last)).all())
        middle, spread = (first + last) / 2, (last - first) / 12**0.5
        assert float(steps.mean()) == pytest.approx(middle, abs=4 * spread / len(steps) ** 0.5)
        # batches are drawn together on the smaller lattices, fields in those that are left
        variance = expected * (1 - expected)
        if at.N == N:
            within = expected / of_full
            variance = of_full * within * (1 - within) / at_once
            variance += within**2 * of_full * (1 - of_full)
        found = len(steps) / (batches * at_once)
        assert found == pytest.approx(expected, abs=4 * (variance / batches) ** 0.5)
    assert len(intervals) > 1
    assert 0 < end < T
    full, *smaller = objective.examples(6)
    assert full[0].N == N
    assert [task.N for task, _ in smaller] == [at.N for at, _, _ in intervals[1:]]
    n = (torch.arange(200, dtype=torch.float64) + 0.5) * T / 200
    split = objective.split(n)
    places = torch.cat([each for _, each in split])
    assert places.sort().values.tolist() == list(range(200))
    assert {task.N for task, _ in split if not task.numbers.any()} == set(drawn)
    assert all(task.N == N for task, _ in split if task.numbers.any())


def test_the_loss_on_active_modes_is_that_of_skild_without_a_coarse_field(truth):
    model = model_of(training={"snr_threshold": 0.01})
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    _, (small, first, last), *_ = SkildObjective(model.process, model.config.training).lattices
    n = torch.full((len(x_0),), (first + last) / 2, dtype=torch.float64)
    eps = torch.randn(len(x_0), 1, small.N, small.N, generator=torch.Generator().manual_seed(2))
    task = CoarseTask(small, torch.zeros(len(x_0), dtype=torch.long))
    found = model.objective().losses(model.network, task, x_0, n, eps)
    alone = SkildObjective(model.process, model.config.training)
    wanted = alone.losses(model.of_active_modes(N), small, x_0, n, eps)
    torch.testing.assert_close(found, wanted)
    # and the network is told how small the lattice is
    untold = alone.losses(model.output, small, x_0, n, eps)
    assert bool((untold != wanted).all())


def test_sampling_from_nothing_shows_what_training_shows(truth):
    model = model_of(training={"snr_threshold": 0.01})
    seen = {}

    def network(x, lam):
        seen[x.shape[-1]] = x
        return torch.zeros_like(x[:, :1])

    network.multiple = 2
    lattices = SkildObjective(model.process, model.config.training).lattices
    x = torch.randn(2, 1, N, N)
    denoise = replace(model, network=network).denoiser()
    for _, start, end in lattices:
        denoise(x, (start + end) / 2)
    assert sorted(seen, reverse=True) == [at.N for at, _, _ in lattices]
    for M, shown in seen.items():
        assert not shown[:, 1:-1].any()
        assert torch.equal(shown[:, -1], torch.full_like(shown[:, -1], np.log2(M / N) / 2))


def test_a_part_of_a_batch_keeps_its_conditions(model):
    task = CoarseTask(model.process, torch.arange(10))
    assert task[2:5].numbers.tolist() == [2, 3, 4]
    assert task[2:5].N == N


def test_labels_act_on_every_block(model):
    """The network tells kernels apart where they show the same field."""
    x = torch.zeros(1, model.condition.inputs(1) + 1, N, N)
    x[:, :1] = torch.randn(1, 1, N, N, generator=torch.Generator().manual_seed(2))
    other = x.clone()
    other[:, -2] = 1.0
    with torch.no_grad():
        away = model.output(x, torch.ones(1)) - model.output(other, torch.ones(1))
    assert float(away.abs().max()) > 1e-3


# without a coarse field


def test_without_a_coarse_field_it_is_an_unconditional_model(model, truth):
    inputs = model.condition.inputs(1)

    class Bare(torch.nn.Module):
        multiple = 2

        def forward(self, x, lam):
            return model.network(
                torch.cat([x, torch.zeros_like(x).repeat(1, inputs, 1, 1)], dim=1), lam
            )

    plain = model_of(network=Bare(), condition=None)
    assert type(plain).name == "a SKILD model"
    how = {"sampler": sk.Multistep(4), "seed": 3}
    assert np.array_equal(model.generate(3, **how).values, plain.generate(3, **how).values)
    ours, theirs = (each.reconstruct(truth, 4, **how) for each in (model, plain))
    assert np.array_equal(ours.values, theirs.values)
    ours, theirs = (each.enlarge(truth[:2], 2, **how) for each in (model, plain))
    assert np.array_equal(ours.values, theirs.values)


# starts and results


class GaussianPosterior(torch.nn.Module):
    """E[x_0 | x_n, y] of Gaussian fields, in place of a network."""

    multiple = 1

    def __init__(self, process, kernel, M):
        super().__init__()
        side = process.N
        B = torch.tensor(kspace.basis_matrix(side, "periodic"))
        self.B, self.process, self.kernel, self.M = torch.kron(B, B), process, kernel, M
        # A takes its side from what it acts on
        eye = torch.eye(side**2, dtype=torch.float64).view(-1, side, side)
        self.A = downsample(eye, kernel, M, "periodic").flatten(1).T
        self.C = self.in_sites(process.S0)

    def in_sites(self, variance):
        return self.B.T @ (variance.flatten()[:, None] * self.B)

    def given(self, y):
        """Mean and covariance of x_0 given y."""
        gain = self.C @ self.A.T @ torch.linalg.pinv(self.A @ self.C @ self.A.T, hermitian=True)
        return y.flatten(1).double() @ gain.T, self.C - gain @ self.A @ self.C

    def forward(self, x, lam):
        y = downsample(x[:, 1:2].double(), self.kernel, self.M, "periodic")
        mean, P = self.given(y)
        u = self.process.k_eff**2 * float(lam[0]) / self.process.N**2
        H, noise = (
            self.in_sites(torch.exp(-u / 2)),
            self.in_sites(-self.process.S0 * torch.expm1(-u)),
        )
        gain = P @ H.T @ torch.linalg.inv(H @ P @ H.T + noise)
        x_n = x[:, :1].flatten(1).double()
        return (mean + (x_n - mean @ H.T) @ gain.T).view(len(x), 1, *x.shape[-2:]).float()


@pytest.mark.parametrize(
    ("kernel", "M"), [("box", 4), ("box", 5), ("spectral", 3), ("gaussian", 2), ("lanczos", 4)]
)
def test_given_gaussian_fields_samples_have_the_posterior_distribution(kernel, M):
    """The start draws x_n given y, and the flow goes on from there: mean and covariance."""
    side, count = 8, 4000
    values = values_of(size=side, condition=CONDITION | {"factors": [1.5, 4]})
    values["training"] = {"prediction": "x0"}
    values.pop("network")
    config = parse_config(values)
    process = config.process.build(*config.process.modes())
    exact = GaussianPosterior(process, kernel, M)
    model = build_model(config, ("field",), *config.process.modes(), exact)
    noise = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))
    x_0 = kspace.inverse(process.S0.sqrt().float() * noise, "periodic")
    y = downsample(x_0, kernel, M, "periodic")
    made = model.super_resolve(
        y.numpy(),
        side / M,
        kernel=kernel,
        sampler=sk.Multistep(40, last_snr=300.0),
        batch_size=count,
        dims=("sample", "channel", "y", "x"),
    )
    assert made.consistency_residual < 1e-5
    mean, P = exact.given(y)
    away = torch.from_numpy(made.values).reshape(count, -1).double() - mean
    found = away.T @ away / count
    scatter = ((P.trace() ** 2 + P.square().sum()) / count).sqrt()
    assert float((found - P).norm()) < 1.5 * float(scatter)
    sigma = float((2 * P.square().sum() / count).sqrt() / P.trace())
    assert float(found.trace() / P.trace()) == pytest.approx(1, abs=4 * sigma + 0.01)
    z = away.mean(dim=0) / (P.diagonal() / count).clamp(min=1e-9).sqrt()
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("M", [21, 16, 13, 8, 4])
def test_results_agree_with_the_coarse_fields(model, truth, kernel, M):
    coarse = sk.coarse_grain(truth, factor=N / M, kernel=kernel)
    assert coarse.shape[-1] == M
    made = model.super_resolve(coarse, N / M, sampler=sk.Multistep(3), batch_size=5)
    assert made.shape == truth.shape
    assert made["sample"].values.tolist() == truth["sample"].values.tolist()
    again = downsample(torch.from_numpy(made.values), kernel, M, "periodic")
    np.testing.assert_allclose(again, coarse.values, atol=1e-5)
    assert made.consistency_residual < 1e-5
    if kernel == "box" and N % M == 0:
        assert set(np.unique(made.values)) == {-1, 1}
        np.testing.assert_allclose(again, coarse.values, atol=1e-7)


def test_the_spins_of_a_block_are_set_by_rank(model):
    start = model.observed(N // 4, 4, "box")
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(2, 1, N, N, generator=generator)
    up = torch.randint(17, (2, 1, N // 4, N // 4), generator=generator)
    spins = start.finished(fields, 2 * up / 16 - 1)
    for at in ((0, 0, 0, 0), (1, 0, 3, 7), (0, 0, 5, 2)):
        field, _, row, column = at
        where = (field, 0, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        largest = fields[where].flatten().sort(descending=True).values[: int(up[at])]
        assert torch.equal(fields[where][spins[where] > 0].sort(descending=True).values, largest)


def test_to_first_order_uncertain_spins_share_what_a_block_lacks(model):
    f, start = 4, model.observed(N // 4, 4, "box")
    h = torch.randn(3, 1, N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = partial(downsample, kind="box", M=N // f, basis="periodic")
    # what a small field does to independent spins, but for its square
    for c in (0.01, -0.01):
        tilted = torch.tanh(h + c)
        found = start.agreeing(torch.tanh(h), sums(tilted))
        torch.testing.assert_close(found, tilted, atol=c**2, rtol=0)
        torch.testing.assert_close(sums(found), sums(tilted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("canonical", [False, True])
def test_the_uncertain_spin_of_a_block_takes_what_it_lacks(canonical):
    model = model_of(condition={**CONDITION, "canonical": canonical})
    f, start = 4, model.observed(N // 4, 4, "box")
    sums = partial(downsample, kind="box", M=N // f, basis="periodic")
    certain = torch.ones(1, 1, N, N)
    uncertain = certain.clone()
    uncertain[..., 1::f, 2::f] = -0.2
    certain[..., 1::f, 2::f] = -1
    found = start.agreeing(uncertain, sums(certain))
    torch.testing.assert_close(found, certain, atol=0.02, rtol=0)
    torch.testing.assert_close(sums(found), sums(certain), atol=1e-6, rtol=0)


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize(("kernel", "M"), [("box", 8), ("box", 13), ("gaussian", 8)])
def test_training_moves_estimates_as_sampling_does(truth, kernel, M, canonical):
    model = model_of(condition={**CONDITION, "canonical": canonical})
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    estimates = 0.5 * x_0.roll(1, -1) + 0.1
    conditions = Conditions(model.condition, N, "periodic", torch.device("cpu"), spins=True)
    numbers = torch.tensor([1 + conditions.all.index((kernel, M))])
    y = downsample(x_0, kernel, M, "periodic")
    wanted = model.observed(M, N / M, kernel).agreeing(estimates, y)
    found = conditions.agreeing(x_0, numbers, estimates)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(downsample(found, kernel, M, "periodic"), y, atol=2e-5, rtol=0)
    nothing = conditions.agreeing(x_0, torch.tensor([0]), estimates)
    assert torch.equal(nothing, estimates)


def test_modes_that_are_known_anyway_have_finite_gradients(truth):
    """The zero mode, where k_c = 0."""
    process = {**values_of()["process"], "k_c": 0.0}
    model = model_of(process=process)
    assert bool(model.process.frozen.any())
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    n = torch.full((len(x_0),), 300.0, dtype=torch.float64)
    numbers = torch.arange(len(x_0))
    scale = torch.tensor(0.1, requires_grad=True)
    losses = model.objective().losses(
        lambda x, lam: scale * x[:, :1], CoarseTask(model.process, numbers), x_0, n, x_0
    )
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert bool(scale.grad.isfinite())


def test_what_the_coarse_field_says_need_not_be_learned(model, truth):
    """The loss does not see what an estimate says of P x P, unless the model is not consistent."""
    x_0 = torch.as_tensor(truth.values, dtype=torch.float32)[:, None]
    generator = torch.Generator().manual_seed(3)
    eps, wrong = (torch.randn(x_0.shape, generator=generator) for _ in range(2))
    n = torch.full((len(x_0),), 400.0, dtype=torch.float64)
    process = model.process
    conditions = Conditions(model.condition, N, "periodic", torch.device("cpu"))
    number = torch.tensor([1 + conditions.all.index(("gaussian", 13))])
    P = conditions.channels(wrong, number, wrong)[:, :1]
    # the change of the output of v that changes the estimate by P
    change = -kspace.inverse(
        kspace.forward(P, "periodic") / process.marginal(400.0).sigma, "periodic"
    )
    losses = {}
    for consistent in (True, False):
        condition = {**CONDITION, "consistent": consistent}
        objective = model_of(condition=condition).objective()
        losses[consistent] = [
            objective.losses(
                lambda x, lam, off=off: 0.1 * x[:, :1] + off * change.float(),
                CoarseTask(process, number),
                x_0,
                n,
                eps,
            )
            for off in (0.0, 1.0)
        ]
    torch.testing.assert_close(*losses[True], rtol=1e-4, atol=0)
    assert float((losses[False][1] / losses[False][0]).min()) > 1.1
    assert bool((losses[True][0] < losses[False][0]).all())


def test_results_do_not_depend_on_batches(model, truth):
    coarse = sk.coarse_grain(truth, factor=4)
    how = {"sampler": sk.Stochastic(4), "seed": 9}
    one, other = (model.super_resolve(coarse, 4, batch_size=size, **how) for size in (5, 12))
    assert np.array_equal(one.values, other.values)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_model_of_pictures(whitened):
    fields = torch.rand(2, 3, N, N, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model = model_of(("red", "green", "blue"), whitened=whitened, basis="cosine")
    coarse = downsample(fields, "bicubic", 8, "cosine")
    made = model.super_resolve(
        coarse.numpy(),
        4,
        kernel="bicubic",
        dims=("sample", "channel", "y", "x"),
        data_range=(-1.0, 1.0),
        sampler=sk.Multistep(3),
    )
    assert made.shape == (2, 3, N, N)
    assert made.consistency_residual < 1e-5


def test_pictures_of_sizes_that_the_network_does_not_take():
    """Made on a lattice of 32 sites, and without its last modes."""
    model = model_of(("red", "green", "blue"), basis="cosine")
    fields = torch.rand(2, 3, 31, 31, generator=torch.Generator().manual_seed(1)) * 2 - 1
    coarse = downsample(fields, "bicubic", 10, "cosine").numpy()
    given = {"kernel": "bicubic", "dims": ("sample", "channel", "y", "x"), "data_range": (-1, 1)}
    made = model.super_resolve(coarse, 3.1, sampler=sk.Multistep(2), **given)
    whole = model.super_resolve(coarse, 3.2, sampler=sk.Multistep(2), **given)
    assert made.shape == (2, 3, 31, 31)
    assert whole.shape == (2, 3, 32, 32)
    wanted = downsample(torch.from_numpy(whole.values), "spectral", 31, "cosine")
    np.testing.assert_allclose(made.values, wanted.numpy(), atol=1e-5)


# bad input


@pytest.mark.parametrize(
    ("fields", "factor", "kernel", "message"),
    [
        ("box", 4, "bilinear", "`kernel`: this model was trained on box, .*lanczos, not bilinear$"),
        ("box", 4, "nearest", "not nearest, and there is none of that name"),
        ("none", 4, None, "pass `kernel`, one of box, spectral"),
        ("box", 1.25, None, r"`factor`: this model was trained on 1\.5 to 8, got 1\.25"),
        ("box", 16, None, r"`factor`: this model was trained on 1\.5 to 8, got 16"),
        ("odd", 4, "box", r"-?0\.\d+ is the average of no 4 x 4 block of spins \+-1"),
        ("large", 4, "box", r"values reach 1\.5, and no spins \+-1 give more than 1 by `kernel`"),
        ("large", 4, "spectral", r"no spins \+-1 give more than [123]\.\d+ by `kernel` spectral"),
    ],
)
def test_bad_input_is_named(model, truth, tmp_path, fields, factor, kernel, message):
    y = sk.coarse_grain(truth, factor=4, kernel="box")
    given = {
        "box": y,
        "none": y.values,
        "odd": y.values - 0.3 / 16 * np.sign(y.values),
        "large": np.where(np.arange(8) == 3, 1.5 if kernel == "box" else 4.0, y.values),
    }[fields]
    with pytest.raises(InputError, match=message) as error:
        model.super_resolve(
            given, factor, kernel=kernel, sampler=sk.Multistep(2), out=tmp_path / "made.h5"
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made.h5").exists()


def test_coarse_fields_of_low_precision_are_taken(model, truth):
    coarse = sk.coarse_grain(truth, factor=8).astype(np.float16).astype(np.float32)
    made = model.super_resolve(coarse, 8, sampler=sk.Multistep(2))
    exact = sk.coarse_grain(truth, factor=8)
    assert np.array_equal(sk.coarse_grain(made, factor=8).values, exact.values)


def test_other_sizes_are_refused(model):
    with pytest.raises(InputError, match="coarse fields must be 8 x 8, got 4 x 4"):
        model.observed(8, 4, "box").draw(torch.zeros(1, 1, 4, 4), None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"factors": [8, 2]}, "condition: factors must be two numbers above 1"),
        ({"factors": [1.0, 2]}, "condition: factors must be two numbers above 1"),
        ({"kernels": {}}, "condition: kernels must name one at least"),
        ({"kernels": {"nearest": 1}}, "condition.kernels.nearest"),
        ({"kernels": {"box": 0}}, "condition.kernels.box"),
        ({"unconditional": 1.0}, "condition.unconditional"),
        ({"focus": [20, 4]}, "condition: focus must be two positive numbers, the smaller one"),
        ({"factor": 2}, "condition: no key 'factor'"),
    ],
)
def test_bad_configurations_are_named(changed, message):
    with pytest.raises(InputError, match=message):
        parse_config(values_of(condition=CONDITION | changed))


def test_options_that_do_not_go_with_it():
    with pytest.raises(InputError, match=r"needs training\.timesteps = 'uniform'"):
        parse_config(values_of(training={"timesteps": "second-moment"}))
    far = values_of(condition=CONDITION | {"factors": [50, 60]})
    with pytest.raises(InputError, match="no coarse field of L = 32 has one between 50 and 60"):
        parse_config(far).check_sizes(N, N)


# runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = make_inputs(tmp_path_factory.mktemp("coarse"))
    values = run_values(folder, folder / "run")
    values["process"] |= {"k_c": 3.0, "schedule": {"kind": "linear", "resolution": 0.5}}
    values["condition"] = CONDITION | {"factors": [1.5, 4]}
    run(parse_config(values))
    return folder, values


def test_training_resumes_to_the_same_weights(trained, tmp_path):
    folder, values = trained
    interrupted_and_resumed(values | {"out": str(tmp_path / "half")})
    whole, resumed = (load(p) for p in (folder / "run", tmp_path / "half"))
    assert_equal(whole.network.state_dict(), resumed.network.state_dict())


def test_accumulated_parts_are_one_batch(trained):
    """Each part has the conditions of its own fields."""
    steps = []
    for parts in (1, 4):
        values = json.loads(json.dumps(trained[1]))
        values["training"]["accumulate"] = parts
        trainer = Trainer(parse_config(values), World(0, 1, torch.device("cpu")), lambda line: None)
        steps.append([trainer.step(i) for i in range(3)])
    for one, other in zip(*steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)


def test_a_checkpoint_serves_all_verbs(trained):
    folder, _ = trained
    model = load(folder / "run")
    assert model.condition.kernels == KERNELS
    truth = sk.open(folder / "train.h5")[:4]
    few = {"sampler": sk.Multistep(3)}
    assert model.generate(2, **few).shape == (2, 8, 8)
    assert model.reconstruct(truth, 2, **few).shape == (4, 8, 8)
    for kernel in KERNELS:
        coarse = sk.coarse_grain(truth, factor=2, kernel=kernel)
        assert model.super_resolve(coarse, 2, **few).downsampling_of_input == kernel


def test_every_kernel_can_be_trained_on():
    every = dict.fromkeys(DOWNSAMPLINGS, 1.0)
    model = model_of(condition=CONDITION | {"kernels": every})
    objective = model.objective()
    (at, n), fields = objective.examples(200)[0], torch.ones(200, 1, N, N)
    losses = objective.losses(model.network, at, fields, n, torch.zeros_like(fields))
    assert losses.shape == (200,)
    assert torch.isfinite(losses).all()
    places = torch.cat([where for _, where in objective.split(n)]).sort().values
    assert torch.equal(places, torch.arange(200))
    assert {float(at.numbers[0]) for at, _ in objective.split(n)} == {
        0.0,
        *(1.0 + 9 + 18 * i for i in range(6)),
    }


def test_fields_are_trained_on_up_to_where_sampling_starts():
    model, sooner = (model_of(condition={**CONDITION, "start_snr": snr}) for snr in (0.01, 0.0001))
    conditions = Conditions(sooner.condition, N, "periodic", torch.device("cpu"), spins=True)
    at = conditions.all.index(("box", 8))
    start = sooner.observed(8, 4, "box")
    assert start.n == conditions.steps(sooner.process)[at]
    assert start.n > model.observed(8, 4, "box").n
    # in terms of what is missing, k = 4 waves and more
    alpha, sigma = sooner.process.marginal(start.n)
    missing = torch.isinf(start.coarse.alias_variance)
    snr = ((alpha / sigma) ** 2 * sooner.process.S0)[missing].max()
    assert float(snr) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("focus", [(6.0, 20.0), (1.0, 2.0)])
def test_half_of_the_steps_are_drawn_in_the_focus(focus):
    plain, focused = (model_of(condition={**CONDITION, "focus": each}) for each in (None, focus))
    low, high = (plain.process.step_at_resolution(R, plain.snr) for R in focus[::-1])
    count, found = 20_000, []
    for model in (plain, focused):
        objective = model.objective()
        at, n = objective.draw(count, torch.Generator().manual_seed(0))
        ends = objective.ends[at.numbers]
        assert bool(((n > 0) & (n <= ends)).all())
        found.append((at.numbers, n))
    assert torch.equal(found[0][0], found[1][0])
    # coarse fields of small factors say more than the focus holds
    reach = ends > low
    assert bool((ends < high).any())
    assert bool(reach.all()) == (focus[1] == 20.0)
    within = ((ends.clamp(max=high) - low) / ends).clamp(min=0)
    shares = within, 0.5 * reach + (1 - 0.5 * reach) * within
    for (_, n), share in zip(found, shares, strict=True):
        inside = ((n > low) & (n < high)).double()
        assert abs(float((inside - share).mean())) < 4 * 0.5 / count**0.5
    # those that do not reach it are spread evenly
    places = (found[1][1] / ends)[~reach]
    assert abs(float((places - 0.5).sum())) <= 4 * (len(places) / 12) ** 0.5


def test_a_focus_below_the_schedule_is_named():
    with pytest.raises(InputError, match=r"condition\.focus: .*where the schedule ends"):
        model_of(condition={**CONDITION, "focus": (0.3, 0.5)}).objective()
