"""Scale Space Diffusion against dense linear algebra, torch's own resizing, and Gaussian data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from skild_physics import kspace
from skild_physics.diffusion import scale_space
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.resize import DEGRADATIONS, Resize, resize
from skild_physics.diffusion.reverse import nothing, sample
from skild_physics.diffusion.sampler import Ancestral, Multistep, Stochastic, sampler_of
from skild_physics.diffusion.scale_space import (
    LevelPosterior,
    ScaleSpace,
    level_ends,
    level_ends_of_spectrum,
)
from skild_physics.diffusion.scale_space_reverse import level_start, segments
from skild_physics.diffusion.schedule import LinearBetaSchedule
from skild_physics.kspace import BASES

BETAS = LinearBetaSchedule(0.1, 20.0)
kinds, bases = st.sampled_from(DEGRADATIONS), st.sampled_from(BASES)


def space_of(sizes=(8, 4), kind="box", basis="periodic", T=1000, gamma=0.5):
    return ScaleSpace(tuple(sizes), level_ends(len(sizes), T, gamma), BETAS, kind, basis)


def early(sizes, kind, basis):
    """A process whose levels change where the fine modes still say something."""
    return ScaleSpace(sizes, (400, 600, 1000)[-len(sizes) :], BETAS, kind, basis)


@given(kinds, bases, st.sampled_from([(8, 4), (16, 8, 4), (12, 4)]))
def test_what_is_lifted_can_be_lowered(kind, basis, sizes):
    space = space_of(sizes, kind, basis)
    for level, side in enumerate(sizes):
        x = torch.randn(2, 1, side, side, dtype=torch.float64)
        lifted = space.lifted(x, sizes[0])
        back = space.lowered(lifted, level)
        torch.testing.assert_close(space.lifted(back, sizes[0]), lifted, rtol=1e-9, atol=1e-9)
        # a crop on a torus drops the mode of highest momentum of even sides
        if (kind, basis) != ("crop", "periodic"):
            torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)


@st.composite
def spaces_and_steps(draw):
    """A process of two or three levels, and two whole steps 0 < m < n of it."""
    sizes = draw(st.sampled_from([(8, 4), (16, 8, 4), (12, 4), (9,), (20, 10, 5)]))
    T = draw(st.integers(10, 1000))
    space = space_of(sizes, draw(kinds), draw(bases), T, draw(st.floats(0.4, 1.5)))
    n = draw(st.integers(2, T))
    return space, n, draw(st.integers(1, n - 1))


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(M):
    """The matrix of R x R^T on flattened fields."""
    return torch.kron(M.R, M.R)


def factor_of(posterior):
    """The matrix that takes the numbers z to a draw of the noise, both flattened."""
    side = posterior.resize.R.shape[1]
    unit = torch.eye(side**2, dtype=torch.float64).view(-1, 1, side, side)
    return posterior.noise(unit).flatten(1).T


@given(kinds, bases, st.sampled_from([(8, 4), (12, 4), (9, 3), (10, 5)]))
def test_adjoint(kind, basis, sides):
    N, M = sides
    R = resize(kind, N, M, basis)
    x, y = normal(3, N, N), normal(3, M, M, seed=1)
    assert torch.allclose((R.apply(x) * y).sum(), (x * R.adjoint(y)).sum(), atol=1e-12)
    largest = torch.linalg.eigvalsh(dense(R) @ dense(R).T).max()
    assert R.gain == pytest.approx(float(largest), abs=1e-12)


def test_bilinear_is_the_antialiased_resize_of_torch():
    x = normal(2, 3, 32, 32)
    for M in (20, 16, 14, 8, 4):
        wanted = F.interpolate(x, size=(M, M), mode="bilinear", antialias=True)
        found = resize("bilinear", 32, M, "cosine").apply(x)
        assert torch.allclose(found, wanted, atol=1e-14)


@pytest.mark.parametrize("basis", BASES)
def test_box_is_average_pooling(basis):
    x = normal(2, 1, 16, 16)
    assert torch.allclose(resize("box", 16, 4, basis).apply(x), F.avg_pool2d(x, 4), atol=1e-14)


@pytest.mark.parametrize("basis", BASES)
def test_crop_keeps_the_amplitudes_of_low_modes(basis):
    x = normal(2, 16, 16)
    y = resize("crop", 16, 8, basis).apply(x)
    low = 8 if basis == "cosine" else 7
    kept = kspace.forward(x, basis)[:, :low, :low]
    assert torch.allclose(kspace.forward(y, basis)[:, :low, :low], kept, atol=1e-13)


def test_levels_as_published():
    ends = level_ends(4, 1000, 0.5)
    assert np.diff((0, *ends)).tolist() == [438, 312, 187, 63]
    assert level_ends(4, 1000, 1.0) == (250, 500, 750, 1000)
    assert level_ends(1, 1000) == (1000,)


@given(st.integers(1, 6), st.integers(100, 1000), st.floats(0.3, 1.0))
def test_levels_are_those_of_the_formula(levels, T, gamma):
    ends = level_ends(levels, T, gamma)
    for n in (1, *ends, *(end + 1 for end in ends[:-1])):
        tau = (n - 1) / (T - 1)
        exact = levels * (1 - (1 - tau) ** gamma)
        found = next(level for level, end in enumerate(ends) if n <= end)
        assert min(exact, levels - 1) - 1 - 1e-6 < found <= min(exact, levels - 1) + 1e-6


def test_levels_of_a_spectrum_end_where_the_first_lost_mode_drowns():
    k = torch.as_tensor(kspace.wavenumbers(64, "periodic"))
    S0 = 1e4 * k.clamp(min=1.0) ** -1.75
    ends = level_ends_of_spectrum(S0, "periodic", (64, 32, 16), BETAS, 0.1, 1000)
    for end, M in zip(ends, (32, 16), strict=False):
        u = float(BETAS.lam(end / 1000))
        S = float(1e4 * (np.pi * M) ** -1.75)
        assert np.exp(-u) * S / -np.expm1(-u) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="without a step"):
        level_ends_of_spectrum(S0 * 1e9, "periodic", (64, 32, 16), BETAS, 0.1, 1000)


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("basis", BASES)
def test_the_draw_has_the_covariance_of_the_dense_formula(kind, basis):
    space = space_of((8, 4), kind, basis)
    end = space.ends[0]
    for posterior in (space.posterior(end + 1, end), space.posterior(900, 300), space.raising(0)):
        c2 = np.exp(posterior.u_m - posterior.u_n)
        s2_m, s2_n = -np.expm1(-posterior.u_m), -np.expm1(-posterior.u_n)
        A = dense(posterior.resize)
        wanted = s2_m * torch.eye(64, dtype=torch.float64) - s2_m**2 / s2_n * c2 * A.T @ A
        factor = factor_of(posterior)
        assert (factor @ factor.T - wanted).abs().max() < 1e-10


@given(spaces_and_steps())
def test_posterior_times_marginal_is_the_joint(case):
    space, n, m = case
    posterior = space.posterior(n, m)
    s2_m, s2_n = -np.expm1(-space.u(m)), -np.expm1(-space.u(n))
    M = np.exp((space.u(m) - space.u(n)) / 2) * dense(posterior.resize)
    coarse, fine = (int(size**0.5) for size in M.shape)
    zero = torch.zeros(1, 1, fine, fine, dtype=torch.float64)
    unit = torch.eye(coarse**2, dtype=torch.float64).view(-1, 1, coarse, coarse)
    gain = posterior.mean(unit, zero).flatten(1).T
    factor = factor_of(posterior)
    eye = torch.eye(fine**2, dtype=torch.float64)
    assert torch.allclose(factor @ factor.T + s2_n * gain @ gain.T, s2_m * eye, atol=1e-10)
    assert torch.allclose(s2_n * gain, s2_m * M.T, atol=1e-10)
    x_0 = normal(2, 1, fine, fine)
    mu_m = np.exp(-space.u(m) / 2) * x_0
    mu_n = np.exp(-space.u(n) / 2) * posterior.resize.apply(x_0)
    assert torch.allclose(posterior.mean(mu_n, x_0), mu_m, atol=1e-10)


@given(spaces_and_steps())
def test_marginals_compose(case):
    space, n, m = case
    l_m, l_n = space.level(m), space.level(n)
    x_0 = normal(2, 1, space.sizes[0], space.sizes[0])
    after = space.between(l_m, l_n)
    there = after.apply(space.degraded(x_0, l_m))
    assert torch.allclose(there, space.degraded(x_0, l_n), atol=1e-12)
    M = np.exp((space.u(m) - space.u(n)) / 2) * dense(after)
    s2_m, s2_n = -np.expm1(-space.u(m)), -np.expm1(-space.u(n))
    # what a step must add to the noise: a covariance
    added = s2_n * torch.eye(len(M), dtype=torch.float64) - s2_m * M @ M.T
    assert torch.linalg.eigvalsh(added).min() > -1e-12


@given(st.integers(2, 1000), st.data())
def test_on_one_level_it_is_the_process_of_ddpm(n, data):
    m = data.draw(st.integers(1, n - 1))
    space = space_of((6,))
    known = space.levels[0].posterior(n, m)
    found = space.posterior(n, m)
    x_n, x_0 = normal(2, 1, 6, 6), normal(2, 1, 6, 6, seed=1)
    wanted = known.from_x0 * x_0 + known.from_xn * x_n
    assert torch.allclose(found.mean(x_n, x_0), wanted, atol=1e-12)
    assert torch.allclose(found.spread, known.std, atol=1e-12)


def test_noise_that_a_step_cannot_hold_is_refused(monkeypatch):
    louder = Resize(1.1 * resize("crop", 8, 4, "cosine").R)
    with pytest.raises(ValueError, match="must not exceed it"):
        LevelPosterior(louder, 1.0, 1.0)
    # far enough apart, there is a process
    LevelPosterior(louder, 3.0, 1.0)
    with pytest.raises(ValueError, match="m must not exceed n"):
        LevelPosterior(louder, 1.0, 2.0)
    monkeypatch.setattr(scale_space, "resize", lambda *_: louder)
    with pytest.raises(ValueError, match="lambda_max"):
        space_of((8, 4))


@pytest.mark.parametrize(
    ("sizes", "ends", "text"),
    [
        ((4, 8), (5, 10), "must be below"),
        ((8, 4, 2), (5, 8, 10), "at least 4 x 4"),
        ((8, 4), (5,), "2 sizes and 1 ends"),
        ((8, 4), (10, 10), "must end after"),
    ],
)
def test_levels_that_do_not_exist(sizes, ends, text):
    with pytest.raises(ValueError, match=text):
        ScaleSpace(sizes, ends, BETAS, "box", "periodic")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: resize("nearest", 8, 4, "cosine"), "degradation must be one of"),
        (lambda: level_ends(3, 2), "need as many steps"),
        (lambda: level_ends(2, 100, 0.0), "gamma must be positive"),
        (lambda: level_ends(4, 10, 0.01), "without a step"),
        (lambda: space_of().level(1001), "n must lie in"),
        (lambda: segments(space_of(), 1000.0, 1, Multistep(2)), "at least 3 evaluations, got 2"),
    ],
)
def test_bad_arguments(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def power_law(N, basis):
    """Variances of modes of Gaussian data, rough enough for the fine ones to matter."""
    k = torch.as_tensor(kspace.wavenumbers(N, basis)) / np.pi
    return 30 * (k**2 + 2) ** -0.9


class Gaussian:
    """The exact E[x_0 | x_n] of data N(0, S0), densely, and the covariance of its error."""

    def __init__(self, space, S0):
        self.space = space
        B = torch.tensor(np.kron(*[kspace.basis_matrix(len(S0), space.basis)] * 2))
        self.C = B.T @ torch.diag(S0.flatten()) @ B

    def parts(self, n, level, end):
        """Fine covariance, and the matrices that give the estimate and what it leaves open."""
        space = self.space
        D = dense(space.between(0, end))
        fine = D @ self.C @ D.T
        H = np.exp(-space.u(n) / 2) * dense(space.between(end, level))
        s2 = -np.expm1(-space.u(n))
        eye = torch.eye(len(H), dtype=torch.float64)
        gain = torch.linalg.solve(H @ fine @ H.T + s2 * eye, H @ fine).T
        return fine, gain, fine - gain @ H @ fine

    def __call__(self, x_n, n, side):
        level, end = (self.space.sizes.index(s) for s in (x_n.shape[-1], side))
        _, gain, _ = self.parts(n, level, end)
        return (x_n.flatten(1) @ gain.T).view(-1, 1, side, side)

    def error_variance(self, level):
        """Diagonal of the error's covariance at a change of level, in the modes."""
        n, side = float(self.space.ends[level]), self.space.sizes[level]
        _, _, left = self.parts(n, level + 1, level)
        B = torch.tensor(np.kron(*[kspace.basis_matrix(side, self.space.basis)] * 2))
        return (B @ left @ B.T).diagonal().view(side, side).clamp(min=0)


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("basis", BASES)
def test_a_change_of_level_with_drawn_x_0_gives_the_exact_marginal(kind, basis):
    space = early((8, 4), kind, basis)
    data = Gaussian(space, power_law(8, basis))
    n = float(space.ends[0])
    raising, abar = space.raising(0), np.exp(-space.u(n))
    fine, gain, left = data.parts(n, 1, 0)
    A = dense(space.resizes[0])
    # x_n -> x_m is linear: through x_n itself, and through the estimate and its error
    unit = torch.eye(16, dtype=torch.float64).view(-1, 1, 4, 4)
    zero = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    on_xn = raising.mean(unit, zero).flatten(1).T
    full = torch.eye(64, dtype=torch.float64).view(-1, 1, 8, 8)
    on_x0 = raising.mean(torch.zeros(1, 1, 4, 4, dtype=torch.float64), full).flatten(1).T
    of_xn = abar * A @ fine @ A.T + (1 - abar) * torch.eye(16, dtype=torch.float64)
    total = on_xn + on_x0 @ gain
    noise = factor_of(raising)
    wanted = abar * fine + (1 - abar) * torch.eye(64, dtype=torch.float64)
    without = total @ of_xn @ total.T + noise @ noise.T
    found = without + on_x0 @ left @ on_x0.T
    assert (found - wanted).abs().max() < 1e-10
    # and what the published chain lacks is no small matter
    assert torch.trace(wanted - without) > 0.02 * torch.trace(wanted)


class UnitNoise:
    """Noise of a linear chain, one number of one draw at a time: sample i has the i-th number 1."""

    def __init__(self, count):
        self.count, self.place = count, 0

    def like(self, x):
        z = torch.zeros(self.count, x[0].numel(), dtype=torch.float64)
        rows = torch.arange(self.place, self.place + z.shape[1])
        z[rows, torch.arange(z.shape[1])] = 1.0
        self.place += z.shape[1]
        return z.view(self.count, *x.shape[1:])


def start_of(space, estimate, error_variance=()):
    """White noise on the coarsest level."""
    return level_start(
        space, estimate, float(space.T), len(space.sizes) - 1, None, error_variance=error_variance
    )


def chain_covariance(space, data, sampler, error_variance=()):
    """Exact covariance (modes) of what the reversed chain makes of Gaussian data."""
    way = segments(space, float(space.T), len(space.sizes) - 1, sampler)
    changes = sum(s**2 for s in space.sizes[:-1]) * (2 if error_variance else 1)
    within = 0
    if isinstance(sampler, Ancestral):
        within = sum((len(part.steps) - 1) * space.sizes[part.level] ** 2 for part in way)
    noise = UnitNoise(space.sizes[-1] ** 2 + changes + within)
    x = noise.like(torch.empty(1, 1, space.sizes[-1], space.sizes[-1]))
    made = start_of(space, data, error_variance).reverse(x, data, sampler, noise)
    B = torch.tensor(np.kron(*[kspace.basis_matrix(space.sizes[0], space.basis)] * 2))
    modes = made.flatten(1) @ B.T
    return modes.T @ modes


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("sizes", [(8, 4), (16, 8, 4)])
def test_the_reversed_chain_returns_the_covariance_of_gaussian_data(kind, sizes):
    """With the error's variance mode by mode; without it every change of level loses variance."""
    space = early(sizes, kind, "periodic")
    S0 = power_law(sizes[0], "periodic")
    data = Gaussian(space, S0)
    variances = [data.error_variance(level) for level in range(len(sizes) - 1)]
    sampler = Multistep(100, last_snr=1e4, order=2)
    found = chain_covariance(space, data, sampler, variances)
    root = S0.flatten().sqrt()
    away = found / root.outer(root) - torch.eye(len(found), dtype=torch.float64)
    assert away.diagonal().abs().max() < 0.005
    # an error is not quite diagonal in the modes where averages alias
    assert away.abs().max() < 0.005
    lacking = chain_covariance(space, data, sampler).diagonal() / S0.flatten()
    assert lacking.min() < 0.95


def test_the_ancestral_chain_converges_to_the_covariance_of_gaussian_data():
    space = early((8, 4), "crop", "periodic")
    S0 = power_law(8, "periodic")
    data = Gaussian(space, S0)
    worst = []
    for n_evals in (60, 240):
        found = chain_covariance(space, data, Ancestral(n_evals), [data.error_variance(0)])
        worst.append(float((found.diagonal() / S0.flatten() - 1).abs().max()))
    assert worst[1] < 0.5 * worst[0]
    assert worst[1] < 0.05


@settings(max_examples=30)
@given(
    st.sampled_from([(8,), (8, 4), (16, 8, 4)]),
    st.integers(7, 40),
    st.sampled_from(["multistep", "stochastic", "ancestral"]),
    st.sampled_from(["time", "log-resolution"]),
)
def test_every_evaluation_is_used_and_no_noise_is_left(sizes, n_evals, name, spacing):
    space, point = space_of(sizes), 0.7
    asked = []

    def estimate(x_n, n, side):
        asked.append((n, x_n.shape[-1], side))
        return torch.full((len(x_n), 1, side, side), point)

    sampler = sampler_of(name, n_evals=n_evals, spacing=spacing)
    made = sample(start_of(space, estimate), nothing(2), sampler, batch_size=2)
    assert (made.result == point).all()
    assert made.result.shape == made.start.shape == (2, 1, sizes[0], sizes[0])
    assert all(n > 0 for n, _, _ in asked)
    assert len(asked) <= n_evals
    assert len(asked) >= n_evals - len(sizes)
    assert sum(side != M for _, M, side in asked) == len(sizes) - 1
    # within a level only, and at each change the finer level at the same step
    for n, M, side in asked:
        level = space.sizes.index(M)
        low = space.ends[level - 1] if level else 0
        assert low < n <= space.ends[level] or (side != M and n == low)


def test_samples_do_not_depend_on_the_batch():
    space = space_of((8, 4))
    data = Gaussian(space, power_law(8, "periodic"))

    def estimate(x_n, n, side):
        return data(x_n.double(), n, side).float()

    start = start_of(space, estimate, [data.error_variance(0)])
    made = [sample(start, nothing(5), Stochastic(8), batch_size=size).result for size in (5, 2)]
    assert torch.allclose(*made, atol=1e-5)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_super_resolution_starts_at_the_forward_marginal(kind):
    space = space_of((16, 8, 4), kind)
    coarse = space.degraded(normal(64, 1, 16, 16), 1)
    seen = []

    def estimate(x_n, n, side):
        seen.append((x_n, n))
        return torch.zeros(len(x_n), 1, side, side)

    start = level_start(space, estimate, float(space.ends[0]), 1, 1)
    sample(start, coarse, Multistep(10), seed=3)
    x_n, n = seen[0]
    assert n == space.ends[0]
    u = space.u(n)
    eps = SampleNoise(3, range(64)).like(x_n)
    wanted = np.exp(-u / 2) * coarse.float() + np.sqrt(-np.expm1(-u)) * eps
    assert torch.allclose(x_n, wanted, atol=1e-6)
    # from full fields it is the same: these are degraded, as in training
    fine = level_start(space, estimate, float(space.ends[0]), 1, 0)
    seen.clear()
    sample(fine, normal(64, 1, 16, 16), Multistep(10), seed=3)
    assert torch.allclose(seen[0][0], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="5 x 5, the model takes 8 x 8"):
        sample(start, normal(2, 1, 5, 5), Multistep())


@pytest.mark.parametrize("kind", ["bilinear", "crop"])
def test_noise_does_not_depend_on_the_choice_of_singular_vectors(kind):
    """Where singular values are equal, their vectors are what the machine's library makes them."""
    own = LevelPosterior(resize(kind, 16, 8, "periodic"), u_n=2.0, u_m=1.5)
    other = LevelPosterior(resize(kind, 16, 8, "periodic"), u_n=2.0, u_m=1.5)
    squares, V = torch.linalg.eigh(other.resize.R.T @ other.resize.R)
    modes = squares.clamp(min=0).sqrt().flip(0), V.flip(1)
    object.__setattr__(other.resize, "modes", modes)
    z = torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(own.resize.modes[1].abs(), modes[1].abs(), atol=0.1)
    torch.testing.assert_close(own.noise(z), other.noise(z), rtol=0, atol=1e-7)
