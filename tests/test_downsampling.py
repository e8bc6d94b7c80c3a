"""Linear maps that make fields coarse, against block averages, Pillow and the torus."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skild_physics.fields.downsampling import DOWNSAMPLINGS, downsample, downsampling_matrix
from skild_physics.kspace import BASES


@given(
    st.sampled_from(DOWNSAMPLINGS), st.integers(2, 20), st.integers(1, 20), st.sampled_from(BASES)
)
def test_downsampling_keeps_constants(kind, N, M, basis):
    M = min(M, N)
    R = downsampling_matrix(kind, N, M, basis)
    assert R.shape == (M, N)
    torch.testing.assert_close(R.sum(1), torch.ones(M, dtype=R.dtype), rtol=0, atol=1e-12)
    if M == N and kind in ("box", "spectral", "bicubic", "lanczos"):
        torch.testing.assert_close(R, torch.eye(N, dtype=R.dtype), rtol=0, atol=1e-12)


def test_box_averages_are_block_averages():
    x = torch.randn(3, 12, 12, dtype=torch.float64)
    blocks = x.reshape(3, 4, 3, 4, 3).mean((2, 4))
    torch.testing.assert_close(downsample(x, "box", 4, "periodic"), blocks)
    # 5 cells of 2.4 sites: the second holds sites 2 (0.6), 3, 4 (0.8)
    row = downsampling_matrix("box", 12, 5, "periodic")[1] * 2.4
    torch.testing.assert_close(row[2:5], torch.tensor([0.6, 1.0, 0.8], dtype=row.dtype))


@pytest.mark.parametrize("kind", ["bicubic", "lanczos", "box"])
def test_image_kernels_are_those_of_pillow(kind):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(36, 36)).astype(np.float32)
    filters = {"bicubic": "BICUBIC", "lanczos": "LANCZOS", "box": "BOX"}
    theirs = Image.fromarray(pixels).resize((9, 9), Image.Resampling[filters[kind]])
    ours = downsample(torch.tensor(pixels).double(), kind, 9, "cosine")
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=2e-5)


@pytest.mark.parametrize("kind", ["bicubic", "lanczos", "gaussian", "box"])
def test_kernels_on_a_torus_commute_with_translations(kind):
    x = torch.randn(16, 16, dtype=torch.float64)
    moved = downsample(x.roll((4, 8), (0, 1)), kind, 4, "periodic")
    torch.testing.assert_close(moved, downsample(x, kind, 4, "periodic").roll((1, 2), (0, 1)))


def test_a_side_larger_than_that_of_the_fields():
    with pytest.raises(ValueError, match=r"coarse size must lie in 1\.\.8"):
        downsampling_matrix("box", 8, 9, "cosine")
