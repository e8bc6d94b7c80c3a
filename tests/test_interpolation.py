"""Bicubic and Lanczos interpolation against torch and closed forms."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skild_physics.fields.interpolation import interpolate


@pytest.mark.parametrize("size", [12, 20, 37])
def test_bicubic_interpolation_is_that_of_torch(size):
    coarse = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    # with antialias torch takes Keys' a = -1/2, as Pillow does
    other = F.interpolate(torch.from_numpy(coarse), (size, size), mode="bicubic", antialias=True)
    np.testing.assert_allclose(interpolate(coarse, size, "bicubic"), other.numpy(), atol=1e-5)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
def test_interpolation_keeps_constants_and_nearly_keeps_ramps(kernel):
    ramp = np.linspace(-1, 1, 24, dtype=np.float32)[None, None, None, :].repeat(24, axis=2)
    fine = interpolate(ramp, 96, kernel)
    expected = np.interp((np.arange(96) + 0.5) / 4 - 0.5, np.arange(24), ramp[0, 0, 0])
    np.testing.assert_allclose(fine[0, 0, 48, 16:-16], expected[16:-16], atol=0.01)
    np.testing.assert_allclose(interpolate(ramp * 0 + 0.3, 31, kernel), 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="`size` must be at least 24"):
        interpolate(ramp, 23, kernel)
    with pytest.raises(ValueError, match="`kernel` must be one of bicubic, lanczos, got 'box'"):
        interpolate(ramp, 48, "box")
