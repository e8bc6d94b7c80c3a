"""Held-out losses: per band of t, with an error, the same every time."""

import math

import numpy as np
import pytest
import torch

from skild_physics.config.training import TrainingConfig
from skild_physics.diffusion.adaptive import active_size
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.scale_space import ScaleSpace, level_ends
from skild_physics.diffusion.schedule import LinearBetaSchedule, linear_to_resolution
from skild_physics.kspace import inverse, wavenumbers
from skild_physics.models.objective import ScaleSpaceObjective, SkildObjective, training_losses
from skild_physics.networks import CompactUNet
from skild_physics.training.evaluation import BANDS, heldout_loss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def steep_process(N=8, basis="periodic", resolution=2.0, k_c=0.0):
    S0 = torch.tensor(3 * (wavenumbers(N, basis) ** 2 + 9) ** -0.8)
    return Process(S0, linear_to_resolution(N, resolution, 9, 0.1), basis, k_c)


def gaussian(process, count, channels):
    """Fields whose modes have exactly the variance S0."""
    modes = torch.randn(count, channels, process.N, process.N, generator=seeded(3))
    return inverse(modes * process.S0.sqrt().float(), process.basis)


def nothing(x, lam):
    return torch.zeros_like(x)


@pytest.mark.parametrize("prediction", ["v", "eps"])
@pytest.mark.parametrize("shell_weight", [False, True])
@pytest.mark.parametrize("basis", ["periodic", "cosine"])
def test_heldout_loss_of_a_network_that_knows_nothing_is_one(prediction, shell_weight, basis):
    """Every mode of both targets has variance 1; the weights have mean 1."""
    process = steep_process(basis=basis)
    settings = TrainingConfig(prediction=prediction, shell_weight=shell_weight)
    fields = gaussian(process, 128, 3)
    found = heldout_loss(nothing, SkildObjective(process, settings), process, fields, 50)
    assert np.abs((np.array(found.loss) - 1) / found.stderr).max() < 4
    # the square of a normal variable has variance 2
    if not shell_weight:
        assert found.stderr == pytest.approx([math.sqrt(2 / (8 * 8 * 3 * 128))] * BANDS, rel=0.25)
    assert found.mean == pytest.approx(np.mean(found.loss))
    assert abs(found.mean - 1) < 4 * found.mean_stderr


def test_heldout_loss_of_fewer_than_eight_fields_has_no_error():
    process = steep_process()
    settings = TrainingConfig(prediction="v")
    for n in (7, 8):
        fields = gaussian(process, n, 3)
        found = heldout_loss(nothing, SkildObjective(process, settings), process, fields, 50)
        assert np.isfinite(found.loss).all()
        assert (np.isfinite(found.stderr) == (n == 8)).all()
        assert np.isfinite(found.mean_stderr) == (n == 8)


def test_heldout_loss_is_what_training_minimises():
    """Over fields, steps and noise that have nothing in common with those of the evaluation."""
    process = steep_process()
    settings = TrainingConfig(prediction="x0")
    fields = gaussian(process, 256, 1)

    def half(x, lam):
        return 0.5 * x

    found = heldout_loss(half, SkildObjective(process, settings), process, fields, 64)
    count = 200
    band = [
        torch.cat(
            [
                training_losses(
                    half,
                    process,
                    settings,
                    gaussian(process, count, 1),
                    (b + torch.rand(count, generator=seeded(b), dtype=torch.float64)) * 125,
                    torch.randn(count, 1, 8, 8, generator=seeded(20 + 10 * b + i)),
                )
                for i in range(5)
            ]
        )
        for b in range(BANDS)
    ]
    for loss, stderr, losses in zip(found.loss, found.stderr, band, strict=True):
        error = math.hypot(stderr, float(losses.std()) / math.sqrt(count))
        assert abs(loss - float(losses.mean())) < 4 * error
    assert found.loss[-1] > found.loss[0] + 10 * found.stderr[0]


def test_heldout_loss_is_the_same_every_time():
    process = steep_process()
    fields = gaussian(process, 24, 1)
    torch.manual_seed(0)
    network = CompactUNet((8,), (1,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    objective = SkildObjective(process, TrainingConfig())
    first, again = (heldout_loss(network, objective, process, fields, 24) for _ in range(2))
    assert first == again
    for batch_size in (1, 7):
        other = heldout_loss(network, objective, process, fields, batch_size)
        np.testing.assert_allclose(other.loss, first.loss, rtol=1e-5)
        np.testing.assert_allclose(other.stderr, first.stderr, rtol=1e-4)
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    assert heldout_loss(network, objective, process, fields, 24) != first


def test_every_step_is_evaluated_on_its_own_lattice():
    process = Process(torch.ones(16, 16), linear_to_resolution(16, 2, 9, 0.1), "cosine")
    seen = {}

    def watch(x, lam):
        M = x.shape[-1]
        seen.setdefault(M, []).extend(float(process.schedule.time(v)) for v in lam.double() / M**2)
        return torch.zeros_like(x)

    settings = TrainingConfig(snr_threshold=0.1, active_multiple=4)
    fields = torch.randn(40, 2, 16, 16, generator=seeded())
    found = heldout_loss(watch, SkildObjective(process, settings), process, fields, 16)
    assert len(seen) >= 3
    assert sum(map(len, seen.values())) == 40 * BANDS
    for M, times in seen.items():
        # float32 has moved the steps a little
        assert {active_size(process, 1000 * t * (1 - 1e-5), 0.1, 4) for t in times} == {M}
    # each band has its own steps, and whole bands are averaged
    every = np.histogram(np.concatenate(list(seen.values())), np.linspace(0, 1, BANDS + 1))[0]
    assert every.tolist() == [40] * BANDS
    np.testing.assert_allclose(found.loss, 1, atol=0.2)


def test_heldout_loss_covers_every_level():
    space = ScaleSpace(
        (16, 8, 4), level_ends(3, 1000), LinearBetaSchedule(0.1, 20.0), "box", "periodic"
    )
    seen = {}

    def watch(x, lam):
        seen[x.shape[-1]] = seen.get(x.shape[-1], 0) + len(x)
        return torch.zeros_like(x)

    fields = torch.randn(40, 1, 16, 16, generator=seeded())
    tasks = ScaleSpaceObjective(space, TrainingConfig(prediction="v"))
    heldout_loss(watch, tasks, space.levels[0], fields, 16)
    assert sum(seen.values()) == 40 * 8
    for side, count in seen.items():
        level = space.sizes.index(side)
        share = np.diff((0, *space.ends))[level] / 1000
        assert count / 320 == pytest.approx(share, abs=0.02)
