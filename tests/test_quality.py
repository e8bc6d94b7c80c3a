"""Metrics of image quality against scikit-image, closed forms and defining formulas."""

import hashlib
import os
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve1d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from skimage.metrics import structural_similarity as skimage_ssim

from skild_physics.quality.distances import frechet_distance, inception_score, kernel_distance
from skild_physics.quality.extras import import_extra
from skild_physics.quality.similarity import (
    multiscale_similarity,
    peak_signal_to_noise,
    similarity_scales,
    structural_similarity,
)
from skild_physics.quality.summary import rows, summarize
from skild_physics.quality.weights import find_weights, load_state


def photographs(size):
    """Pairs of real photographs and noisy or block-averaged copies, (image, channel, y, x)."""
    rng = np.random.default_rng(0)
    pictures = [data.astronaut()[40:, 150:], data.chelsea()[60:, 90:], data.coffee()[80:, 200:]]
    x = np.stack([picture[:size, :size] for picture in pictures]).astype(np.float64)
    noisy = x + rng.normal(0, 12, x.shape)
    coarse = x[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]
    y = np.concatenate([noisy, coarse])
    x = np.concatenate([x, x]).astype(np.uint8)
    return (
        torch.from_numpy(np.moveaxis(each, -1, 1).copy())
        for each in (x, np.clip(np.rint(y), 0, 255).astype(np.uint8))
    )


def skimage_values(x, y):
    x, y = (np.moveaxis(each.numpy(), 1, -1) for each in (x, y))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    with np.errstate(divide="ignore"):
        psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(x, y, strict=True)]
    ssim = [
        skimage_ssim(a, b, data_range=255, channel_axis=-1, **options)
        for a, b in zip(x, y, strict=True)
    ]
    return np.array(psnr), np.array(ssim)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [64, 161])
def test_photographs_agree_with_scikit_image(size, channels):
    x, y = (each[:, :channels] for each in photographs(size))
    psnr, ssim = skimage_values(x, y)
    np.testing.assert_allclose(peak_signal_to_noise(x, y), psnr, rtol=0, atol=1e-6)
    np.testing.assert_allclose(structural_similarity(x, y), ssim, rtol=0, atol=1e-6)
    assert ssim.max() - ssim.min() > 0.1


@given(
    seed=st.integers(0, 2**31),
    size=st.integers(11, 30),
    channels=st.sampled_from([1, 3]),
    contrast=st.sampled_from([1, 5, 60, 255]),
    noise=st.sampled_from([0, 1, 20, 255]),
)
def test_any_pictures_agree_with_scikit_image(seed, size, channels, contrast, noise):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, contrast, (2, channels, size, size), endpoint=True).astype(np.uint8)
    y = np.clip(x + rng.integers(-noise, noise, x.shape, endpoint=True), 0, 255).astype(np.uint8)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    psnr, ssim = skimage_values(x, y)
    np.testing.assert_allclose(peak_signal_to_noise(x, y), psnr, rtol=0, atol=1e-6)
    np.testing.assert_allclose(structural_similarity(x, y), ssim, rtol=0, atol=1e-6)


def multiscale_by_formula(x, y, weights):
    """MS-SSIM of one channel in NumPy, step by step as in Wang's msssim.m."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(picture):
        for axis in (0, 1):
            picture = convolve1d(picture, window, axis=axis)
        return picture[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate(weights):
        mu_x, mu_y = mean(x), mean(y)
        var_x, var_y = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2
        covariance = mean(x * y) - mu_x * mu_y
        factor = (2 * covariance + 58.5225) / (var_x + var_y + 58.5225)
        if scale == len(weights) - 1:
            factor = factor * (2 * mu_x * mu_y + 6.5025) / (mu_x**2 + mu_y**2 + 6.5025)
        product *= factor.mean() ** weight
        x, y = (np.pad(each, ((0, 1), (0, 1)), "symmetric") for each in (x, y))
        x, y = (
            (each[:-1, :-1] + each[1:, :-1] + each[:-1, 1:] + each[1:, 1:])[::2, ::2] / 4
            for each in (x, y)
        )
    return product


@pytest.mark.parametrize(("size", "scales"), [(161, 5), (176, 5), (99, 4), (32, 2), (11, 1)])
def test_multiscale_similarity_is_wangs(size, scales):
    x, y = photographs(size)
    assert similarity_scales(size) == scales
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    if scales < 5:
        weights = weights / weights.sum()
    expected = [
        np.mean([multiscale_by_formula(a, b, weights) for a, b in zip(p, q, strict=True)])
        for p, q in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(multiscale_similarity(x, y), expected, rtol=0, atol=1e-9)


def test_one_scale_of_multiscale_similarity_is_similarity():
    x, y = photographs(20)
    torch.testing.assert_close(multiscale_similarity(x, y), structural_similarity(x, y))


def test_uniform_pictures_leave_luminance_alone():
    x, y = torch.full((1, 1, 200, 200), 100), torch.full((1, 1, 200, 200), 140)
    luminance = (2 * 100 * 140 + 6.5025) / (100**2 + 140**2 + 6.5025)
    assert structural_similarity(x, y).item() == pytest.approx(luminance, abs=1e-12)
    assert multiscale_similarity(x, y).item() == pytest.approx(luminance**0.1333, abs=1e-12)
    assert peak_signal_to_noise(x, y).item() == pytest.approx(20 * np.log10(255 / 40), abs=1e-12)


def test_opposite_pictures_have_no_multiscale_similarity():
    x, _ = photographs(64)
    assert (multiscale_similarity(x, 255 - x) == 0).all()


@pytest.mark.parametrize(
    ("size", "scales"), [(11, 1), (20, 1), (21, 2), (41, 3), (81, 4), (160, 4), (161, 5), (999, 5)]
)
def test_scales_that_fit(size, scales):
    assert similarity_scales(size) == scales


def test_pictures_below_a_window_are_refused():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, not 10"):
        similarity_scales(10)


def with_moments(rng, count, mean, covariance):
    """Samples whose sample mean and covariance are exactly these."""
    x = rng.normal(size=(count, len(mean)))
    x = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return torch.from_numpy(x @ np.linalg.cholesky(covariance).T + mean)


def test_frechet_distance_of_given_moments():
    rng = np.random.default_rng(1)
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[0.5, -0.2], [-0.2, 3.0]])
    # of 2 x 2 matrices tr (A B)^(1/2) = (tr A B + 2 (det A det B)^(1/2))^(1/2)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = 1.0 + 4.0 + np.trace(a) + np.trace(b) - 2 * root
    x = with_moments(rng, 200, np.array([0.0, 1.0]), a)
    y = with_moments(rng, 150, np.array([1.0, -1.0]), b)
    assert frechet_distance(x, y).value == pytest.approx(expected, abs=1e-9)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_gaussian_features_within_its_error():
    d, n, draws = 4, 1000, 300
    scale, shift = np.linspace(0.5, 2, d), np.linspace(0, 1, d)
    expected = (shift**2).sum() + ((scale - 1) ** 2).sum()
    rng = np.random.default_rng(2)
    found = [
        frechet_distance(
            torch.from_numpy(rng.normal(size=(n, d))),
            torch.from_numpy(rng.normal(size=(n, d)) * scale + shift),
        )
        for _ in range(draws)
    ]
    values, errors = np.array(found).T
    # the bias is of order d^2 / n
    assert abs(values[0] - expected) < 4 * errors[0] + d**2 / n
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(draws) + d**2 / n
    # of a variance from 300 draws 4 sigma are a third
    assert np.mean(errors**2) == pytest.approx(values.var(ddof=1), rel=0.33)


def test_few_features_of_few_pictures_are_refused():
    with pytest.raises(ValueError, match="FID needs at least 3 pictures of each source, got 2"):
        frechet_distance(torch.zeros(2, 4), torch.zeros(9, 4))
    with pytest.raises(ValueError, match="KID needs at least 4 pictures"):
        kernel_distance(torch.zeros(9, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="IS needs at least 20 pictures, got 19"):
        inception_score(torch.zeros(19, 4))


def test_inception_score_of_extremes():
    n, classes = 400, 8
    certain = 100 * torch.eye(classes).repeat(n // classes, 1)
    # in every part the shuffled classes are nearly, not exactly, equally frequent
    value, stderr = inception_score(certain)
    assert 0.9 * classes < value < classes
    assert abs(inception_score(torch.ones(n, classes)).value - 1) < 1e-12
    assert inception_score(torch.ones(n, classes)).stderr < 1e-12
    assert 0 < stderr < 0.5


def test_inception_score_of_gaussian_logits_within_its_error():
    # two classes whose log odds are Gaussian: p(c) = 1/2 and IS = exp(log 2 - <entropy>)
    sigma, n = 2.0, 40_000
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    z = sigma * nodes
    entropy = np.logaddexp(0, z) - z / (1 + np.exp(-z))
    expected = np.exp(np.log(2) - weights @ entropy / weights.sum())
    rng = np.random.default_rng(3)
    odds = torch.from_numpy(rng.normal(0, sigma, n))
    value, stderr = inception_score(torch.stack([odds, torch.zeros(n)], dim=1))
    assert 0 < stderr < 0.005
    assert abs(value - expected) < 4 * stderr


def test_kernel_distance_is_the_unbiased_estimate():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(12, 5)), rng.normal(0.3, 1.2, size=(12, 5))

    def mean(a, b, distinct):
        pairs = [(i, j) for i in range(12) for j in range(12) if i != j or not distinct]
        return np.mean([(a[i] @ b[j] / 5 + 1) ** 3 for i, j in pairs])

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    found = kernel_distance(torch.from_numpy(x), torch.from_numpy(y), subsets=1, subset_size=12)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.subset_size == 12


def test_kernel_distance_of_gaussian_features():
    d, n = 16, 300
    shift = np.full(d, 0.5)
    a = shift @ shift
    # moments of x.y for independent standard normal x and y, of which one or both are shifted
    both = (a**3 + 3 * a * (2 * a + d) + 6 * a) / d**3 + 3 * (a**2 + 2 * a + d) / d**2 + 3 * a / d
    neither, one = 3 / d, 3 * (a + d) / d**2
    expected = both + neither - 2 * one
    rng = np.random.default_rng(5)
    found = [
        kernel_distance(
            torch.from_numpy(rng.normal(size=(n, d))),
            torch.from_numpy(rng.normal(size=(n, d)) + shift),
            subsets=10,
        )
        for _ in range(60)
    ]
    values = np.array([each.value for each in found])
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / np.sqrt(60)
    assert {each.subset_size for each in found} == {150}
    assert all(each.subset_std > 0 for each in found)


def table(metric, *columns):
    return xr.Dataset(
        {
            metric: (("source", "image"), np.array(columns)),
            "n_samples": ("source", [len(column) for column in columns]),
        },
        coords={"source": ["truth", "first", "second"]},
    )


def test_means_have_errors_intervals_and_paired_differences():
    rng = np.random.default_rng(6)
    first = rng.normal(30, 2, 400)
    second = first + rng.normal(0.5, 0.1, 400)
    results = summarize(table("psnr", np.full(400, np.nan), first, second), ["psnr"], 1000)
    _, row = found = rows(results, ["psnr"])
    assert [each.source for each in found] == ["first", "second"]
    assert row.value == pytest.approx(second.mean())
    assert row.stderr == pytest.approx(second.std(ddof=1) / 20)
    # the percentiles of 1000 means scatter by about 5 % of the standard error each
    assert row.low == pytest.approx(row.value - 1.96 * row.stderr, abs=0.3 * row.stderr)
    assert row.high == pytest.approx(row.value + 1.96 * row.stderr, abs=0.3 * row.stderr)
    assert row.difference == pytest.approx((second - first).mean())
    assert row.difference_stderr == pytest.approx((second - first).std(ddof=1) / 20)
    assert found[0].difference is None


@pytest.mark.parametrize("n", [7, 8])
def test_fewer_than_eight_pictures_have_no_errors(n):
    values = np.random.default_rng(6).normal(30, 2, (2, n))
    results = summarize(table("psnr", np.full(n, np.nan), *values), ["psnr"])
    first, second = rows(results, ["psnr"])
    assert first.value == pytest.approx(values[0].mean())
    assert second.difference == pytest.approx((values[1] - values[0]).mean())
    for number in (first.stderr, second.low, second.high, second.difference_stderr):
        assert (number is None) == (n == 7)
    features = torch.from_numpy(np.random.default_rng(7).normal(size=(2, n, 3)))
    distance = frechet_distance(*features)
    assert np.isfinite(distance.value)
    assert np.isfinite(distance.stderr) == (n == 8)


def test_scores_of_fewer_than_eight_parts_have_no_error():
    logits = torch.from_numpy(np.random.default_rng(8).normal(size=(40, 5)))
    assert np.isfinite(inception_score(logits, 8).stderr)
    few = inception_score(logits, 7)
    assert np.isfinite(few.value)
    assert np.isnan(few.stderr)


def test_equal_pictures_have_an_infinite_mean_without_error():
    infinite = np.array([np.inf, 30.0, 40.0])
    results = summarize(table("psnr", np.full(3, np.nan), infinite, np.ones(3)), ["psnr"])
    row, _ = rows(results, ["psnr"])
    assert row.value == np.inf
    assert (row.stderr, row.low, row.high) == (None, None, None)


def saved(folder, content):
    path = folder / "weights-00000000.pth"
    torch.save(content, path)
    return path


def test_weights_are_known_by_their_hash(tmp_path):
    path = saved(tmp_path, {"a": torch.ones(2)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(tmp_path / f"net-{digest[:8]}.pth")
    found = find_weights("fid", f"https://example.org/{path.name}", tmp_path)
    assert (found.sha256, found.published) == (digest, True)
    assert load_state(found)["a"].tolist() == [1, 1]
    os.rename(path, tmp_path / "RN50.pt")
    assert find_weights("clipiqa", f"https://example.org/{digest}/RN50.pt", tmp_path).published
    other = "0" * 8 + digest[8:]
    assert not find_weights("clipiqa", f"https://example.org/{other}/RN50.pt", tmp_path).published


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"fid: no weights at .*/net-0123abcd.pth; download"):
        find_weights("fid", "https://example.org/net-0123abcd.pth", tmp_path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Harmful(), "not readable as weights"),
        ({"a": 1}, "other things than tensors"),
        ([torch.ones(1)], "other things than tensors"),
    ],
)
def test_weights_run_no_code_and_hold_only_tensors(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, content)
    file = find_weights("fid", "https://example.org/weights-00000000.pth", tmp_path)
    assert not file.published
    with pytest.raises(ValueError, match=message):
        load_state(file)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("torch_fidelity.metric_fid", r"x needs the package torch-fidelity: .*\[images\]'$"),
        ("lpips", r"x needs the package lpips: pip install 'skild_physics\[images\]'$"),
        ("pyiqa.archs.musiq_arch", r"x needs the package pyiqa: .*\[iqa\]' \(its licence forbids"),
    ],
)
def test_packages_that_are_missing(monkeypatch, module, message):
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(ValueError, match=message):
        import_extra(module, "x")


def test_a_package_without_its_own_dependency(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValueError, match="the package lpips, which needs torchvision: pip"):
        import_extra("lpips", "x")
