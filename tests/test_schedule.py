import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import processes, schedules

from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import (
    LinearSchedule,
    LogLinearSchedule,
    effective_resolution,
    lambda_at_resolution,
    linear_to_resolution,
)


@pytest.mark.parametrize(
    ("size", "resolution", "theta", "lambda_i", "lambda_f"),
    [
        (256, 64, 9, 1132.9352, 550.8723),
        (128, 32, 9, 564.2461, 275.4361),
        (128, 16, 5, 564.2461, 102.6489),
    ],
)
def test_published_super_resolution_schedules(size, resolution, theta, lambda_i, lambda_f):
    schedule = linear_to_resolution(size, resolution, theta, tau=0.1)
    assert schedule.lambda_i == pytest.approx(lambda_i, rel=2e-6)
    assert schedule.lambda_f == pytest.approx(lambda_f, rel=2e-6)


def test_published_generation_schedule_ends_below_one_pixel():
    schedule = LinearSchedule(lambda_i=137.7294, lambda_f=1.57, theta=5)
    assert effective_resolution(schedule.lam(torch.tensor(1.0)), tau=1e-4) < 1


@given(schedules)
def test_lambda_grows_from_zero(schedule):
    lam = schedule.lam(torch.linspace(0, 1, 501))
    assert lam[0] == 0
    assert (lam.diff() > 0).all()


@given(st.floats(0.5, 500), st.floats(1e-4, 0.9))
def test_resolution_and_lambda_are_inverse(resolution, tau):
    lam = lambda_at_resolution(resolution, tau)
    assert float(effective_resolution(torch.tensor(lam), tau)) == pytest.approx(resolution)
    # at the diagonal wavenumber of that resolution the signal-to-noise ratio is tau
    abar = np.exp(-2 * np.pi**2 * resolution**2 * lam)
    assert abar / (1 - abar) == pytest.approx(tau, rel=1e-9)


@given(processes(), st.floats(1e-3, 1))
def test_step_at_inverts_lambda(process: Process, fraction):
    n = fraction * process.T
    assert process.step_at(float(process.lam(n))) == pytest.approx(n, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LinearSchedule(1, 0, 1), "lambda_f"),
        (lambda: LinearSchedule(1, 1, -1), "theta"),
        (lambda: LinearSchedule(float("nan"), 1, 1), "lambda_i"),
        (lambda: LogLinearSchedule(-2, -3.75), "lambda_f"),
        (lambda: linear_to_resolution(32, 0, 9, 0.1), "resolution"),
        (lambda: linear_to_resolution(32, 8, 9, 0), "tau"),
        (lambda: LogLinearSchedule(-3, -2).lam(torch.tensor(1.5)), "t must"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(ValueError, match=name):
        make()
