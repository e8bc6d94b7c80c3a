"""Fields to open, and how tests look at what was opened."""

from pathlib import Path

import numpy as np
import xarray as xr

from skild_physics.fields import batches
from skild_physics.fields.lattice import ENSEMBLE_SCHEMA, SCHEMA_VERSION


def everything(fields):
    """All fields as one batch (n, channel, y, x)."""
    return np.concatenate(list(batches(fields)))


def usable(fields):
    """The fields that can be used, and why the others cannot, by file."""
    skipped = {}
    return np.concatenate(list(batches(fields, skipped=skipped))), skipped


def noise(*shape, seed=0):
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def unit(pixels):
    """Pixels 0 .. 255 in [-1, 1]."""
    return np.asarray(pixels, np.float32) / np.float32(127.5) - np.float32(1)


def close(a, b):
    """The same float32 numbers, to their rounding."""
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-7)


def one_line(error, *parts):
    """What was raised says all this in one line."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def some_spins(n, L, seed=0):
    """Random spins (n, L, L)."""
    return np.where(noise(n, L, L, seed=seed) > 127, 1, -1).astype(np.int8)


def write_ensemble(path, spins):
    """A file as generate-ising writes it, of these spins."""
    xr.Dataset(
        {"spins": (("sample", "y", "x"), spins)},
        attrs={"schema": ENSEMBLE_SCHEMA, "schema_version": SCHEMA_VERSION, "model": "ising"},
    ).to_netcdf(path, engine="h5netcdf")
    return Path(path)
