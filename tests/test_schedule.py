import math

import mpmath
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
    log_linear_to_resolution,
)

NAN, INF = float("nan"), float("inf")
CIFAR_RESOLUTION = 1.57 * math.sqrt(math.log1p(1e4) / 5) / (math.sqrt(2) * math.pi)


def in_fifty_digits(schedule):
    """lambda(t), evaluated by mpmath from the formula of the paper."""
    i, f = mpmath.mpf(schedule.lambda_i), mpmath.mpf(schedule.lambda_f)
    if isinstance(schedule, LinearSchedule):
        return lambda t: mpmath.mpf(schedule.theta) * t / (i * (1 - t) + f) ** 2
    return lambda t: t * mpmath.mpf(10) ** (i + (f - i) * t)


@pytest.mark.parametrize(
    ("size", "resolution", "theta", "tau", "lambda_i", "lambda_f"),
    [
        (32, CIFAR_RESOLUTION, 5, 1e-4, 137.7294, 1.57),
        (256, 64, 9, 0.1, 1132.9352, 550.8723),
        (128, 32, 9, 0.1, 564.2461, 275.4361),
        (128, 16, 5, 0.1, 564.2461, 102.6489),
    ],
    ids=["CIFAR-10", "ImageNet-256 4x", "ImageNet-128 4x and Ising 4x", "ImageNet-128 8x"],
)
def test_published_linear_schedules(size, resolution, theta, tau, lambda_i, lambda_f):
    schedule = linear_to_resolution(size, resolution, theta, tau)
    assert schedule.theta == theta
    # the published lambda_f are off by up to one in their last digit
    assert schedule.lambda_i == pytest.approx(lambda_i, abs=5.1e-5)
    assert schedule.lambda_f == pytest.approx(lambda_f, abs=1.2e-4)
    assert float(effective_resolution(schedule.lam(1.0), tau)) == pytest.approx(resolution)


def test_published_generation_schedules_leave_no_mode_alive():
    assert pytest.approx(0.4796, abs=1e-4) == CIFAR_RESOLUTION
    schedule = LogLinearSchedule(-3.75, -2.0)
    # the ablation ends above one pixel: it is k_c = 31.2 that puts all modes below tau
    R = float(effective_resolution(schedule.lam(1.0), 1e-4))
    assert pytest.approx(6.83, abs=0.01) == R
    assert math.sqrt(2) * math.pi * R < 31.2


def test_published_log_linear_schedule():
    first, last = (float(effective_resolution(10.0**e, 1e-4)) for e in (-3.75, -2.0))
    assert (first, last) == (pytest.approx(51.22, abs=0.01), pytest.approx(6.83, abs=0.01))
    schedule = log_linear_to_resolution(first, last, 1e-4)
    assert schedule.lambda_i == pytest.approx(-3.75, abs=1e-12)
    assert schedule.lambda_f == pytest.approx(-2.0, abs=1e-12)


@given(st.floats(10, 500), st.floats(0.3, 9), st.floats(1e-4, 0.9))
def test_log_linear_schedule_ends_at_its_resolution(first, last, tau):
    schedule = log_linear_to_resolution(first, last, tau)
    assert float(effective_resolution(schedule.lam(1.0), tau)) == pytest.approx(last, rel=1e-9)
    assert 10**schedule.lambda_i == pytest.approx(lambda_at_resolution(first, tau), rel=1e-9)


@given(schedules)
def test_lambda_grows_from_zero(schedule):
    lam = schedule.lam(torch.linspace(0, 1, 501))
    assert lam[0] == 0
    assert (lam.diff() > 0).all()


TIMES = [1e-15, 1e-9, 1e-6, 1e-3, 0.1, 0.37, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-9, 1.0]


@given(schedules, st.lists(st.floats(1e-12, 1), max_size=5))
def test_lambda_and_its_inverse_in_fifty_digits(schedule, more):
    times = torch.tensor(TIMES + more, dtype=torch.float64)
    with mpmath.workdps(50):
        exact = [float(in_fifty_digits(schedule)(mpmath.mpf(t))) for t in times.tolist()]
    lam = torch.tensor(exact, dtype=torch.float64)
    torch.testing.assert_close(schedule.lam(times), lam, rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.time(lam), times, rtol=1e-12, atol=0)
    assert float(schedule.time(0.0)) == 0


@pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(137.7294, 1.57, 5),
        LinearSchedule(0, 3, 2),
        LogLinearSchedule(-3.75, -2.0),
        LogLinearSchedule(-2.0, -2.0),
        LogLinearSchedule(-2.0, -2.3),
    ],
)
def test_inverse_is_the_root_that_mpmath_finds(schedule):
    """Also of a log-linear schedule whose rate falls, where Lambert's function is negative."""
    end = float(schedule.lam(1.0))
    for fraction in (1e-8, 0.01, 0.5, 0.99):
        with mpmath.workdps(50):
            lam = in_fifty_digits(schedule)
            exact = mpmath.findroot(
                lambda t, lam=lam, wanted=fraction * end: lam(t) - wanted,
                (mpmath.mpf(0), mpmath.mpf(1)),
                solver="anderson",
                tol=1e-40,
                maxsteps=500,
            )
        assert float(schedule.time(fraction * end)) == pytest.approx(float(exact), rel=1e-12)


@given(schedules)
def test_rate_is_the_derivative(schedule):
    times = [0.0, 1e-6, 0.01, 0.5, 0.99, 1.0]
    with mpmath.workdps(50):
        exact = [float(mpmath.diff(in_fifty_digits(schedule), mpmath.mpf(t))) for t in times]
    ours = schedule.rate(torch.tensor(times, dtype=torch.float64))
    torch.testing.assert_close(ours, torch.tensor(exact, dtype=torch.float64), rtol=1e-12, atol=0)


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
    assert process.step_at(float(process.lam(n))) == pytest.approx(n, rel=1e-12)


@given(processes(), st.floats(1e-3, 1), st.floats(1e-4, 0.5))
def test_step_at_resolution_inverts_resolution(process: Process, fraction, tau):
    n = fraction * process.T
    R = float(effective_resolution(process.lam(n), tau))
    assert process.step_at_resolution(R, tau) == pytest.approx(n, rel=1e-9)
    assert float(process.resolution(0, tau)) == INF
    # pixels whose modes are all below k_c are not resolved, nor is anything
    k = math.sqrt(2) * math.pi * R
    assert float(process.resolution(n, tau)) == (R if k > process.k_c else 0)


@given(processes(), st.floats(1e-3, 1))
def test_largest_signal_to_noise_ratio_is_that_of_some_mode(process: Process, fraction):
    n = fraction * process.T
    abar = process.marginal(n).alpha.double() ** 2
    of_modes = abar / -torch.expm1(-process.exponent(n))
    largest = float(process.largest_snr(n))
    assert largest == pytest.approx(float(of_modes.max()), rel=1e-9)
    assert (largest == INF) == bool(process.frozen.any())
    lam = float(process.lam(n))
    expected = mpmath.expm1(mpmath.mpf(process.k_c) ** 2 * mpmath.mpf(lam))
    assert largest == (pytest.approx(float(1 / expected), rel=1e-12) if process.k_c else INF)
    for tau in (largest * 0.999, largest * 1.001):
        if 0 < tau < INF:
            assert (float(process.resolution(n, tau)) == 0) == (tau > largest)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSchedule(1, 0, 1), "lambda_f .* 0"),
        (lambda: LinearSchedule(1, NAN, 1), "lambda_f .* nan"),
        (lambda: LinearSchedule(1, 1, -1), "theta .* -1"),
        (lambda: LinearSchedule(1, 1, NAN), "theta .* nan"),
        (lambda: LinearSchedule(1, 1, INF), "theta .* inf"),
        (lambda: LinearSchedule(-1, 1, 1), "lambda_i .* -1"),
        (lambda: LinearSchedule(NAN, 1, 1), "lambda_i .* nan"),
        (lambda: LogLinearSchedule(-2, -3.75), r"lambda_f .* -3\.75"),
        (lambda: LogLinearSchedule(NAN, -2), "lambda_i = nan"),
        (lambda: LogLinearSchedule(-3, NAN), "lambda_f = nan"),
        (lambda: linear_to_resolution(0, 8, 9, 0.1), "size .* 0"),
        (lambda: linear_to_resolution(32, 0, 9, 0.1), "resolution .* 0"),
        (lambda: linear_to_resolution(32, NAN, 9, 0.1), "resolution .* nan"),
        (lambda: linear_to_resolution(32, 8, 0, 0.1), "theta .* 0"),
        (lambda: linear_to_resolution(32, 8, NAN, 0.1), "theta .* nan"),
        (lambda: linear_to_resolution(32, 8, 9, 0), "tau .* 0"),
        (lambda: linear_to_resolution(32, 8, 9, NAN), "tau .* nan"),
        (lambda: linear_to_resolution(32, 8, 9, INF), "tau .* inf"),
        (lambda: log_linear_to_resolution(-1, 8, 0.1), "resolution .* -1"),
        (lambda: effective_resolution(1.0, 0), "tau .* 0"),
        (lambda: effective_resolution(1.0, NAN), "tau .* nan"),
        (lambda: LinearSchedule(1, 1, 1).lam(-0.1), r"t must .* -0\.1"),
        (lambda: LinearSchedule(1, 1, 1).rate(NAN), "t must .* nan"),
        (lambda: LinearSchedule(1, 1, 1).time(1.5), r"lam must .* 1\.5"),
        (lambda: LinearSchedule(1, 1, 1).time(-1), "lam must .* -1"),
        (lambda: LogLinearSchedule(-3, -2).lam(torch.tensor([0.5, 1.5])), r"t must .* 1\.5"),
        (lambda: LogLinearSchedule(-3, -2).time(NAN), "lam must .* nan"),
        (lambda: LogLinearSchedule(-3, -2).time(0.011), r"lam must .* 0\.011"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
