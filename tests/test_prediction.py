"""Prediction targets: conversions, exactness, and what the network is given to see."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import process_and_steps, processes

from skild_physics import kspace
from skild_physics.diffusion.prediction import (
    PREDICTIONS,
    convert,
    denoiser,
    estimate_form,
    estimate_x0,
    target,
    target_form,
)
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import critical_process
from skild_physics.diffusion.schedule import LinearSchedule

kinds = st.sampled_from(PREDICTIONS)
seeds = st.integers(0, 2**31)


def noisy(process, n, seed):
    """x_0 of variance S0, eps, and x_n, in float64; sizes of modes differ by orders."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, process.N, process.N)
    x_0, eps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x_0 = process.S0.sqrt() * x_0
    alpha, sigma = process.marginal(n)
    return x_0, eps, alpha * x_0 + sigma * eps


def resolved(process, n):
    return process.marginal(n).alpha > 1e-3


@given(process_and_steps(), kinds, seeds)
def test_a_perfect_prediction_gives_x0(drawn, kind, seed):
    process, n, _ = drawn
    x_0, eps, x_n = noisy(process, n, seed)
    estimate = estimate_x0(kind, process, n, target(kind, process, n, x_0, eps), x_n)
    away = ((estimate - x_0) / process.S0.sqrt())[..., resolved(process, n)]
    assert (away.abs() < 1e-8).all()


@given(process_and_steps(), kinds, kinds, seeds)
def test_every_type_converts_into_every_other_and_back(drawn, kind, other, seed):
    """For an arbitrary output, that is, for a network that errs."""
    process, n, _ = drawn
    _, _, x_n = noisy(process, n, seed)
    mistaken_x_0, mistaken_eps, _ = noisy(process, n, seed + 1)
    mistaken_eps = torch.where(
        process.frozen,
        mistaken_eps,
        (x_n - process.marginal(n).alpha * mistaken_x_0) / process.marginal(n).sigma,
    )
    output = target(kind, process, n, mistaken_x_0, mistaken_eps)
    converted = convert(kind, other, process, n, output, x_n)
    wanted = target(other, process, n, mistaken_x_0, mistaken_eps)
    back = convert(other, kind, process, n, converted, x_n)
    live = resolved(process, n) & ~process.frozen

    def close(a, b):
        scale = b[..., live].abs().amax(dim=(0, 1)) if bool(live.any()) else torch.ones(())
        return bool(((a - b)[..., live].abs() <= 1e-8 * scale).all())

    assert close(converted, wanted)
    assert close(back, output)


@given(processes(), kinds, kinds, st.floats(0.001, 1), seeds)
def test_frozen_modes_return_x_n_whatever_the_output(process, kind, other, fraction, seed):
    still = Process(process.S0, process.schedule, process.basis, 0.0, process.T)
    n = fraction * process.T
    x_0, eps, x_n = noisy(still, n, seed)
    output = 1e3 * eps
    assert bool(still.frozen[0, 0])
    assert torch.equal(estimate_x0(kind, still, n, output, x_n)[..., 0, 0], x_n[..., 0, 0])
    converted = convert(kind, other, still, n, output, x_n)
    assert bool(torch.isfinite(converted).all())
    again = estimate_x0(other, still, n, converted, x_n)
    assert torch.equal(again[..., 0, 0], x_0[..., 0, 0])


@given(processes(), st.data(), seeds)
def test_xprev_is_the_posterior_mean(process, data, seed):
    n = data.draw(st.integers(1, process.T))
    x_0, eps, x_n = noisy(process, n, seed)
    from_x0, from_xn, _ = process.posterior(n, n - 1)
    torch.testing.assert_close(
        target("xprev", process, n, x_0, eps), from_x0 * x_0 + from_xn * x_n, rtol=1e-10, atol=1e-12
    )


@given(process_and_steps())
def test_targets_that_are_whitened_have_unit_variance(drawn):
    process, n, _ = drawn
    for kind in ("eps", "v"):
        on_x0, on_eps = target_form(kind, process, n)
        variance = on_x0**2 * process.S0 + on_eps**2
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-12, atol=0)
    on_x0, on_eps = target_form("w", process, n)
    variance = on_x0**2 * process.S0 + on_eps**2
    torch.testing.assert_close(variance, process.S0, rtol=1e-12, atol=0)


@given(process_and_steps())
def test_v_and_w_targets_are_those_of_the_paper(drawn):
    process, n, _ = drawn
    abar = torch.exp(-process.exponent(n))
    lost = torch.sqrt(-torch.expm1(-process.exponent(n)))
    root = process.S0.sqrt()
    for kind, on_x0, on_eps in (
        ("v", -lost / root, abar.sqrt()),
        ("w", -lost, abar.sqrt() * root),
    ):
        form = target_form(kind, process, n)
        torch.testing.assert_close(form.on_x0, on_x0, rtol=1e-12, atol=0)
        torch.testing.assert_close(form.on_eps, on_eps, rtol=1e-12, atol=1e-150)


@given(processes(), kinds)
def test_batches_of_steps_are_evaluated_one_by_one(process, kind):
    n = torch.linspace(0.3, 1, 3, dtype=torch.float64) * process.T
    for form in (target_form, estimate_form):
        together = form(kind, process, n)
        for i, step in enumerate(n.tolist()):
            for a, b in zip(together, form(kind, process, step), strict=True):
                torch.testing.assert_close(a[i], b, rtol=1e-12, atol=0)


@given(processes(), kinds)
def test_divisors_are_floored(process, kind):
    """A dead mode multiplies the output's error by at most 1e6 sigma, and never by infinity."""
    on_output, on_xn = estimate_form(kind, process, process.T)
    assert float(on_output.abs().max()) <= 1e6 * max(1.0, float(process.S0.max()))
    assert float(on_xn.abs().max()) <= 1e6


@given(processes(), kinds, st.floats(0.05, 1), seeds)
def test_denoiser_hears_pixels_and_lambda_in_units_of_a_pixel(process, kind, fraction, seed):
    n = fraction * process.T
    x_0, eps, x_n = noisy(process, n, seed)
    seen = []

    def network(fields, lam):
        seen.append((fields, lam))
        return kspace.inverse(target(kind, process, n, x_0, eps), process.basis)

    estimate = denoiser(network, process, kind)(x_n, n)
    ((fields, lam),) = seen
    torch.testing.assert_close(kspace.forward(fields, process.basis), x_n, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lam, (process.lam(n) * process.N**2).expand(2), rtol=1e-12, atol=0)
    away = ((estimate - x_0) / process.S0.sqrt())[..., resolved(process, n)]
    # the network's pixels mix modes whose sizes differ, and eps is divided by alpha
    assert (away.abs() < 1e-4).all()


def test_bad_input_is_named():
    process = Process(torch.ones(4, 4), LinearSchedule(10, 1, 1), "cosine")
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"prediction must .* 'epsilon'"):
        denoiser(lambda x, lam: x, process, "epsilon")
    with pytest.raises(ValueError, match=r"prediction must .* 'epsilon'"):
        target("epsilon", process, 1, x, x)
    with pytest.raises(ValueError, match=r"prediction must .* 'score'"):
        convert("eps", "score", process, 1, x, x)
    with pytest.raises(ValueError, match=r"n must .* 1001"):
        estimate_form("v", process, 1001)
    with pytest.raises(ValueError, match=r"n must .* nan"):
        target_form("x0", process, float("nan"))


@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_estimates_divide_by_no_less_than_the_floor(floor):
    S0 = 1 / (1 + torch.as_tensor(kspace.wavenumbers(4, "periodic")))
    process = Process(S0, LinearSchedule(0.1, 0.5, 1.0), "periodic", floor=floor)
    x_n, eps = (torch.randn(1, 1, 4, 4, dtype=torch.float64) for _ in range(2))
    for each in (process.cropped(2), process.resized(8), critical_process(process, 4)):
        assert each.floor == floor
    alpha, sigma = process.marginal(900)
    assert bool((alpha < 1e-2).any())
    found = estimate_x0("eps", process, 900, eps, x_n)
    wanted = (x_n - sigma * eps) / alpha.clamp(min=floor)
    torch.testing.assert_close(found[..., 1:, 1:], wanted[..., 1:, 1:], rtol=1e-12, atol=0)
