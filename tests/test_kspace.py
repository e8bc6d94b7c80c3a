import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

from skild_physics import kspace
from skild_physics.kspace import BASES

sizes = st.integers(2, 40)
bases = st.sampled_from(BASES)


@given(sizes, bases)
def test_basis_is_orthogonal(N, basis):
    B = kspace.basis_matrix(N, basis)
    np.testing.assert_allclose(B @ B.T, np.eye(N), atol=1e-13)


@given(sizes, bases, st.integers(0, 2**32 - 1))
def test_inverse_and_parseval(N, basis, seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, N, N))
    X = kspace.forward(x, basis)
    np.testing.assert_allclose(kspace.inverse(X, basis), x, atol=1e-12)
    np.testing.assert_allclose((X**2).sum((-1, -2)), (x**2).sum((-1, -2)), rtol=1e-12)


@given(sizes)
def test_cosine_basis_is_scipys_dct(N):
    x = np.random.default_rng(N).normal(size=(N, N))
    expected = dctn(x, type=2, norm="ortho")
    np.testing.assert_allclose(kspace.forward(x, "cosine"), expected, atol=1e-12)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("N", [1, 2, 3, 4, 7, 12, 30, 31])
@pytest.mark.parametrize("library", [np.array, torch.tensor])
def test_fast_transforms_are_the_matrices(monkeypatch, library, N, basis):
    """To rounding, in double and in single precision, forwards and back."""
    fields = np.random.default_rng(N).normal(size=(2, 3, N, N))
    B = kspace.basis_matrix(N, basis)
    monkeypatch.setattr(kspace, "LARGEST_MATRIX", 0)
    for name, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        x = library(fields.astype(name))
        for transform, wanted in ((kspace.forward, B), (kspace.inverse, B.T)):
            made = transform(x, basis)
            assert made.dtype == x.dtype
            assert made.shape == x.shape
            np.testing.assert_allclose(
                np.asarray(made), wanted @ fields @ wanted.T, atol=tolerance, rtol=0
            )


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("N", [5, 6])
def test_gradients_of_fast_transforms(monkeypatch, N, basis):
    monkeypatch.setattr(kspace, "LARGEST_MATRIX", 0)
    x = torch.tensor(np.random.default_rng(N).normal(size=(2, N, N)), requires_grad=True)
    for transform in (kspace.forward, kspace.inverse):
        assert torch.autograd.gradcheck(lambda field, f=transform: f(field, basis), (x,))


@pytest.mark.parametrize("basis", BASES)
def test_one_basis_on_either_side_of_the_crossover(monkeypatch, basis):
    N = kspace.LARGEST_MATRIX + 1
    x = np.random.default_rng(0).normal(size=(N, N))
    fast = kspace.forward(x, basis)
    if basis == "cosine":
        np.testing.assert_allclose(fast, dctn(x, type=2, norm="ortho"), atol=1e-11)
    monkeypatch.setattr(kspace, "LARGEST_MATRIX", N)
    np.testing.assert_allclose(fast, kspace.forward(x, basis), atol=1e-11)
    with pytest.raises(ValueError, match=r"square.*\(300, 400\)"):
        kspace.forward(np.zeros((300, 400)), basis)


@given(sizes)
def test_periodic_basis_holds_the_power_of_the_fft(N):
    """cos^2 + sin^2 over both axes is the power of the four waves (+-m, +-n)."""
    x = np.random.default_rng(N).normal(size=(N, N))
    X2 = kspace.forward(x, "periodic") ** 2
    F2 = np.abs(np.fft.fft2(x, norm="ortho")) ** 2
    m_of_row = kspace.half_periods(N, "periodic") // 2
    m_of_bin = np.minimum(np.arange(N), N - np.arange(N))
    for m in range(N // 2 + 1):
        for n in range(N // 2 + 1):
            ours = X2[np.ix_(m_of_row == m, m_of_row == n)].sum()
            theirs = F2[np.ix_(m_of_bin == m, m_of_bin == n)].sum()
            assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("N", [5, 8])
def test_paper_normalisation(N):
    """The definition of arXiv 2605.26032, summed term by term."""
    x = np.random.default_rng(1).normal(size=(N, N))
    paper = np.zeros((N, N))
    i = np.arange(N)
    for u in range(N):
        for v in range(N):
            wave = np.outer(np.cos(np.pi * (i + 0.5) * u / N), np.cos(np.pi * (i + 0.5) * v / N))
            paper[u, v] = (2 / N) ** 2 * (x * wave).sum()
    ours = kspace.normalization_factor(N, "cosine") * kspace.forward(x, "cosine")
    np.testing.assert_allclose(ours, paper, atol=1e-13)


def test_wavenumbers_span_the_published_range():
    k = kspace.wavenumbers(32, "cosine")
    assert k[0, 0] == 0
    assert k.max() == pytest.approx(137.7294, abs=5e-5)
    assert kspace.wavenumbers(32, "periodic").max() == pytest.approx(np.sqrt(2) * np.pi * 32)


@given(st.sampled_from([6, 9]), bases)
def test_torch_agrees_with_numpy(N, basis):
    x = np.random.default_rng(0).normal(size=(3, N, N))
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        X = kspace.forward(torch.tensor(x, dtype=dtype), basis)
        assert X.dtype == dtype
        np.testing.assert_allclose(X.numpy(), kspace.forward(x, basis), atol=tolerance)


@pytest.mark.parametrize("basis", BASES)
def test_stationary_fields_are_uncorrelated_between_periodic_modes_only(basis):
    """The covariance of a torus is diagonal in the periodic basis, and not in the cosine one."""
    N = 8
    i = np.arange(N)
    distance = np.minimum(i, N - i)
    row = np.exp(-(distance[:, None] ** 2 + distance[None, :] ** 2) / 6)
    shift = (i[:, None] - i[None, :]) % N
    covariance = row[shift[:, None, :, None], shift[None, :, None, :]].reshape(N * N, N * N)
    B = np.kron(kspace.basis_matrix(N, basis), kspace.basis_matrix(N, basis))
    modes = B @ covariance @ B.T
    off_diagonal = np.abs(modes - np.diag(np.diag(modes))).max()
    assert (off_diagonal < 1e-12) == (basis == "periodic")


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"square.*\(3, 4\)"):
        kspace.forward(np.zeros((3, 4)), "cosine")
    with pytest.raises(ValueError, match="sine"):
        kspace.wavenumbers(4, "sine")
