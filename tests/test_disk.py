"""Full disks: an error, the older file as it was, nothing left, and no crash at the end."""

import subprocess
import sys

import h5netcdf
import numpy as np
import pytest
import xarray as xr

from skild_physics.disk import onto_disk, write_netcdf

SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np, xarray as xr
import skild_physics as sk
from skild_physics.disk import write_netcdf

fields = np.random.default_rng(0).uniform(-1, 1, (40, 32, 32)).astype("f4")
table = xr.Dataset({"a": (("x", "y"), fields[0])})
model = sk.load("bundled")
# kernels are compiled, and kept, before the disk is full
sk.generate_ising(16, samples=20, workers=1)
model.generate(1, sampler=sk.Multistep(1))
writers = {
    "a.h5": lambda out: sk.save(fields, out, overwrite=True),
    "a.npz": lambda out: sk.save(fields, out, overwrite=True),
    "a": lambda out: sk.save(fields, out, overwrite=True),
    "c.h5": lambda out: sk.coarse_grain(fields, factor=2, out=out, overwrite=True),
    "i.h5": lambda out: sk.generate_ising(16, samples=3000, workers=1, out=out, overwrite=True),
    "g.h5": lambda out: model.generate(
        2, sampler=sk.Multistep(1), out=out, overwrite=True
    ),
    "t.nc": lambda out: write_netcdf(out, {None: table, "group": table}),
}
for name in ("a.h5", "a.npz", "t.nc"):
    Path(name).write_bytes(b"older")
for limit in (0, 100, 3000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for name, write in writers.items():
        if name == "a" and limit == 3000:
            continue
        try:
            write(Path(name))
        except OSError as error:
            message = str(error)
        else:
            message = "no error"
        # the disk of the test itself is not full
        print(limit, name, message, flush=True)
"""


def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 20
    assert all("cannot be written" in line and "File too large" in line for line in lines), lines
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.npz", "t.nc"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"older"}


def test_groups_of_datasets_are_read_back(tmp_path):
    rng = np.random.default_rng(0)
    one = xr.Dataset({"a": (("x", "y"), rng.random((30, 20)))}, attrs={"n": 3, "said": "ja"})
    one = one.assign_coords(x=np.arange(30), name=("y", [f"n{i}" for i in range(20)]))
    two = xr.Dataset({"b": ("z", rng.integers(0, 9, 4))})
    write_netcdf(tmp_path / "a.nc", {None: one, "two": two})
    found = [xr.load_dataset(tmp_path / "a.nc", group=g, engine="h5netcdf") for g in (None, "two")]
    xr.testing.assert_identical(found[0], one)
    xr.testing.assert_identical(found[1], two)


def test_what_no_longer_reaches_the_disk_is_read_back(tmp_path, monkeypatch):
    """HDF5 reads what it wrote, or it could not close the file."""
    values = np.random.default_rng(0).random((50, 64, 64))
    with pytest.raises(OSError, match="full"), onto_disk(tmp_path / "a.h5") as disk:  # noqa: PT012
        with h5netcdf.File(disk, "w") as file:
            file.dimensions = {"n": None, "y": 64, "x": 64}
            stored = file.create_variable("a", ("n", "y", "x"), "f8", chunks=(3, 64, 64))
            for i in range(0, 50, 5):
                file.resize_dimension("n", i + 5)
                stored[i : i + 5] = values[i : i + 5]
                if i == 20:
                    disk._failure = OSError("full")
            np.testing.assert_array_equal(stored[:], values)
        with h5netcdf.File(disk, "r") as file:
            np.testing.assert_array_equal(file["a"][:], values)
