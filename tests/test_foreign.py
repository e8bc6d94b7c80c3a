"""Other people's fields: one ensemble in every format, type and layout is the same ensemble."""

import gzip
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from field_files import one_line
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import skild_physics as sk
from skild_physics.fields.lattice import open_dataset
from skild_physics.files import InputError

TYPES = ["?", "i1", "u1", "<i2", ">i4", "<i8", "<u2", ">u8", "<f2", ">f4", "<f4", ">f8"]
VALUES = [(0, 1), (-1, 1), (0, 255), (1, 2), (-3, 4)]


def energy(spins):
    """Mean energy per spin on the torus, J = 1."""
    s = spins.astype(float)
    return -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).mean()


def needs(condition):
    """What a format can hold."""
    if not condition:
        assume(False)


def npy(path, array):
    np.save(path, array)
    return path, {}


def npy_fortran(path, array):
    np.save(path, np.asfortranarray(array))
    return path, {}


def npz(path, array):
    with open(path, "wb") as file:
        np.savez(file, labels=np.arange(len(array)), lr=array[:, ::2, ::2], hr=array)
    return f"{path}:hr", {}


def hdf5(path, array):
    with h5py.File(path, "w") as file:
        file["run/spins"] = array
        file["run/beta"] = 0.3
    return path, {}


def hdf5_turned(path, array):
    with h5py.File(path, "w") as file:
        file["spins"], file["more"] = np.moveaxis(array, 0, -1), array[0]
    return f"{path}:spins", {"dims": ("y", "x", "sample")}


def netcdf(path, array):
    needs(array.dtype.kind != "b")
    data = xr.DataArray(np.moveaxis(array, 0, 1), dims=("lat", "time", "lon"))
    xr.Dataset({"s": data, "t": ("time", np.arange(len(array)))}).to_netcdf(path, engine="h5netcdf")
    return f"{path}:s", {}


def netcdf_classic(path, array):
    needs(array.dtype.kind == "f" and array.dtype.itemsize > 2)
    data = xr.Dataset({"s": (("step", "row", "column"), array)})
    data.to_netcdf(path, engine="scipy")
    return path, {}


def zarr(path, array):
    pytest.importorskip("zarr")
    needs(array.dtype.isnative)
    xr.Dataset({"s": (("config", "y", "x"), array)}).to_zarr(path, zarr_format=2)
    return path, {}


def tensor(path, array):
    native = array.astype(array.dtype.newbyteorder("="))
    needs(native.dtype.kind != "u" or native.dtype.itemsize == 1)
    torch.save({"spins": torch.from_numpy(native), "step": 3}, path)
    return path, {}


def text(path, array):
    np.savetxt(path, array.reshape(-1, array.shape[-1]), fmt="%d", header="rows of lattices")
    return path, {"L": array.shape[-1]}


def csv(path, array):
    np.savetxt(path, array.reshape(len(array), -1), fmt="%d", delimiter=",")
    return path, {"L": array.shape[-1]}


def signs(path, array):
    high = array.max()
    rows = ["".join("+" if each == high else "-" for each in row) for row in array.reshape(-1, 6)]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(rows))
    return path, {"L": array.shape[-1]}


def flat(path, array):
    np.save(path, array.reshape(len(array), -1))
    return path, {}


def in_a_row(path, array):
    np.save(path, array.ravel())
    return path, {"L": array.shape[-1]}


def bits(path, array):
    np.save(path, np.packbits(array.reshape(len(array), -1) == array.max(), axis=1))
    return path, {"L": array.shape[-1]}


def bits_of_rows(path, array):
    np.save(path, np.packbits(array == array.max(), axis=2))
    return path, {"L": array.shape[-1]}


def array(path, array):
    return array, {}


def mapped(path, array):
    memory = np.memmap(path, array.dtype, "w+", shape=array.shape)
    memory[:] = array
    return memory, {}


def labelled(path, array):
    return xr.DataArray(np.moveaxis(array, 0, -1), dims=("y", "x", "sample")), {}


WAYS = {
    ".npy": [npy, npy_fortran, flat, in_a_row, bits, bits_of_rows],
    ".NPZ": [npz],
    ".h5": [hdf5, hdf5_turned],
    ".nc": [netcdf, netcdf_classic],
    ".zarr": [zarr],
    ".pt": [tensor],
    ".txt": [text, csv],
    ".txt.gz": [signs],
    ".memory": [array, mapped, labelled],
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    way=st.sampled_from([(suffix, way) for suffix, ways in WAYS.items() for way in ways]),
    dtype=st.sampled_from(TYPES),
    values=st.sampled_from(VALUES),
    n=st.integers(8, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_ensemble_in_every_format_and_type(tmp_path_factory, way, dtype, values, n, seed):
    suffix, write = way
    low, high = (False, True) if dtype == "?" else values
    assume(np.can_cast(np.min_scalar_type(high if low >= 0 else low), dtype, "same_kind"))
    assume(low >= 0 or "u" not in dtype)
    assume(high < 128 or np.dtype(dtype) != np.int8)
    up = np.random.default_rng(seed).random((n, 6, 6)) < 0.4
    stored = np.where(up, high, low).astype(dtype)
    source, options = write(tmp_path_factory.mktemp("way") / f"fields{suffix}", stored)
    spins = np.where(up, 1, -1)
    with sk.open(source, **options) as fields:
        assert (fields.dims, fields.dtype) == (("sample", "y", "x"), np.int8)
        assert (fields.basis, fields.channels) == ("periodic", "spin")
        np.testing.assert_array_equal(fields.values, spins)
        np.testing.assert_array_equal(fields[[5, 1]].values, spins[[5, 1]])
        np.testing.assert_array_equal(fields[3].values, spins[3])
        found = sk.eval_correlators(it=fields)
        assert float(found.dataset["energy"][0]) == pytest.approx(energy(spins), abs=1e-12)


def test_fields_of_real_values_are_the_same_in_every_format(tmp_path):
    fields = np.random.default_rng(0).normal(size=(9, 6, 6))
    expected = sk.fit_spectrum(fields, basis="periodic")
    for suffix, ways in WAYS.items():
        for write in ways:
            if write in (text, csv, signs, bits, bits_of_rows):
                continue
            path = tmp_path / f"{write.__name__}{suffix}"
            if write is zarr and not pytest.importorskip("zarr"):
                continue
            source, options = write(path, fields)
            found = sk.fit_spectrum(source, basis="periodic", **options)
            np.testing.assert_allclose(found.S, expected.S, rtol=1e-6)
    np.savetxt(tmp_path / "a.txt", fields.reshape(9, 36))
    found = sk.fit_spectrum(tmp_path / "a.txt", basis="periodic", L=6)
    np.testing.assert_allclose(found.S, expected.S, rtol=1e-6)


def spins(n=9, L=6, seed=0):
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (n, L, L))


def refused(source, *parts, **options):
    with pytest.raises(InputError) as error:
        sk.open(source, **options)
    one_line(error, *parts)


# which array, and which axis


def test_arrays_of_a_file_are_listed_where_it_is_not_clear(tmp_path):
    np.savez(tmp_path / "a.npz", hr=spins(), lr=spins()[:, ::2, ::2])
    for source in (tmp_path / "a.npz", f"{tmp_path}/a.npz:sr"):
        refused(source, "a.npz", "hr (9, 6, 6)", "lr (9, 3, 3)")
    refused(tmp_path / "a.npz", f"name one, as {tmp_path}/a.npz:hr")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["u"], file["g/v"], file["words"] = spins(), spins(), "text"
    refused(tmp_path / "b.h5", "u (9, 6, 6)", "g/v (9, 6, 6)")
    refused(f"{tmp_path}/b.h5:words", "words is no array of numbers")
    np.testing.assert_array_equal(sk.open(f"{tmp_path}/b.h5:/g/v").values, spins())
    torch.save([torch.zeros(4, 4), torch.ones(3, 4, 4)], tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "0 (4, 4)", "1 (3, 4, 4)")
    np.save(tmp_path / "d.npy", spins())
    refused(f"{tmp_path}/d.npy:u", "holds one array")
    refused(f"{tmp_path}/e.npz:u", "e.npz:u: no such file")


def test_attributes_of_others_are_taken_where_they_mean_the_same(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s"], file.attrs["beta"], file["s"].attrs["boundary"] = spins(), 0.3, "open"
    fields = sk.open(tmp_path / "a.h5")
    assert (fields.beta, fields.boundary, fields.basis) == (0.3, "open", "cosine")
    refused(tmp_path / "a.h5", "says beta = 0.3, not `beta=0.4`", beta=0.4)
    assert sk.open(tmp_path / "a.h5", beta=0.3).beta == 0.3


def test_what_two_shapes_fit_is_asked_for():
    refused(np.ones((64, 64)), "one field of 64 x 64 or 64 flattened fields of 8 x 8", "`L`")
    assert sk.open(np.ones((64, 64)), L=64).shape == (1, 64, 64)
    assert sk.open(np.ones((64, 64)), L=8).shape == (64, 8, 8)
    assert sk.open(np.ones((30, 30))).shape == (1, 30, 30)
    assert sk.open(np.ones((30, 36))).shape == (30, 6, 6)
    refused(np.ones((30, 37)), "shape (30, 37)")
    refused(np.ones((3, 8, 8)), "fields of 8 x 8 sites, not of `L=9`", L=9)
    refused(np.ones((8, 8, 8, 8)), "shape (8, 8, 8, 8)")


def test_axes_that_are_said_wrong_are_refused():
    for dims in (("y", "x"), ("y", "x", "x"), ("a", "y", "x"), ("sample", "channel", "y")):
        refused(np.ones((4, 8, 8)), "dims" if "channel" not in dims else "y and x", dims=dims)
    refused(np.ones((9, 4, 8)), "4 x 8 sites", dims=("sample", "y", "x"))
    refused(np.ones((9, 8, 8)), "9 channels", dims=("channel", "y", "x"))
    refused(xr.DataArray(np.ones((4, 8, 8)), dims=("time", "t", "x")), "which is what?")
    given = xr.DataArray(np.ones((4, 8, 8)), dims=("u", "v", "w"))
    assert sk.open(given, dims=("sample", "y", "x")).shape == (4, 8, 8)


def test_what_is_known_of_each_field_is_kept():
    values = np.moveaxis(spins(), 0, 2)
    coords = {"sample": np.arange(9) + 5, "chain": ("sample", np.arange(9) % 2)}
    fields = sk.open(xr.DataArray(values, coords, ("y", "x", "sample")))
    assert fields["sample"].values.tolist() == list(range(5, 14))
    assert fields[1:3]["chain"].values.tolist() == [1, 0]


def test_only_files_that_hold_their_numbers_are_read(tmp_path):
    """Not what a file of a stranger points to, nor what never ends."""
    np.save(tmp_path / "secret.npy", spins())
    with h5py.File(tmp_path / "external.h5", "w") as file:
        where = [(str(tmp_path / "secret.npy"), 128, 9 * 36)]
        file.create_dataset("x", (9, 6, 6), "i1", external=where)
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["x"] = spins()
    layout = h5py.VirtualLayout((9, 6, 6), "i1")
    layout[:] = h5py.VirtualSource(tmp_path / "source.h5", "x", (9, 6, 6))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    for name in ("external.h5", "virtual.h5"):
        refused(tmp_path / name, name, "x lies in other files")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink("source.h5", "x")
    refused(tmp_path / "link.h5", "no arrays")
    refused(f"{tmp_path}/link.h5:x", "x is no array of numbers")
    os.mkfifo(tmp_path / "pipe.npy")
    refused(tmp_path / "pipe.npy", "is neither a file nor a folder")


# what the numbers are


def test_two_values_that_are_not_two_everywhere_are_refused(tmp_path):
    stack = np.zeros((300, 64, 64), np.uint8)
    stack[:, ::2] = 1
    stack[290, 3, 3] = 7
    np.save(tmp_path / "a.npy", stack)
    fields = sk.open(tmp_path / "a.npy")
    assert set(np.unique(fields[:290])) == {-1, 1}
    with pytest.raises(InputError, match=r"a\.npy: field 290 holds 7 among the two values 0 and 1"):
        fields[280:].values  # noqa: B018


def test_ordered_spins_are_told_by_a_later_field():
    ordered = np.ones((300, 64, 64), np.uint8)
    ordered[-1, 0, 0] = 0
    assert (sk.open(ordered)[:-1].values == 1).all()
    refused(np.ones((9, 8, 8), np.uint8), "all values are 1", "`data_range=1`")
    for options in ({}, {"data_range": 1}):
        assert (sk.open(np.zeros((9, 8, 8), np.uint8), **options).values == -1).all()
    assert (sk.open(np.zeros((9, 8, 8), bool)).values == -1).all()


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u2"])
@pytest.mark.parametrize("white", [1, 255])
def test_ranges_of_pixels(dtype, white):
    """Against the picture in bytes, of which the range is known."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    if white == 1 and "f" not in dtype:
        return
    values = (pixels / 255 * white).astype(dtype)
    refused(values, "`data_range")
    for data_range in (white, (0, white)):
        found = sk.open(values, data_range=data_range)
        np.testing.assert_allclose(found, sk.open(pixels), atol=2e-7)
    assert sk.open(values, data_range=(-1, 1)).dtype == np.dtype(dtype)
    refused(values, "lie outside `data_range=0,0.5`", data_range=0.5)
    in_colour = np.repeat(values[:, None], 3, axis=1)
    if "u" in dtype:
        refused(in_colour, "`data_range`")
    else:
        np.testing.assert_allclose(sk.open(in_colour)[:, 1], sk.open(pixels), atol=2e-7)


def test_values_of_other_kinds():
    rng = np.random.default_rng(0)
    refused(rng.integers(0, 3, (9, 8, 8), dtype=np.uint8), "0 .. 2 of uint8")
    refused(rng.normal(2, 0.2, (9, 3, 8, 8)), "in 3 channels", "`data_range`")
    shape = (9, 8, 8)
    for values in (rng.normal(size=shape), rng.normal(5, 0.1, shape), -rng.random(shape)):
        np.testing.assert_array_equal(sk.open(values), values)
    for wrong in ("white", (0, 1, 2), (1, 0), (0, np.nan), 0):
        refused(rng.normal(size=(9, 8, 8)), "`data_range` is black and white", data_range=wrong)


def test_spins_in_colour_are_no_spins():
    two = np.random.default_rng(0).integers(0, 2, (9, 3, 8, 8), dtype=np.uint8)
    refused(two, "0 .. 1 of uint8")
    assert sk.open(two * 255).dtype == np.float32


# what arithmetic leaves of what was known


def test_arithmetic_on_spins_is_noticed():
    fields = sk.generate_ising(L=8, samples=16)
    assert sk.open(fields) is fields
    assert sk.open((fields + 1) // 2).equals(fields)
    np.testing.assert_array_equal(sk.open((fields + 1) / 2).values, fields.values)


# import


def test_import_makes_a_file_that_says_everything(tmp_path):
    zeros_and_ones = (spins(20) + 1) // 2
    np.savetxt(tmp_path / "s.txt.gz", zeros_and_ones.reshape(20, -1), fmt="%d")
    made = sk.import_fields(tmp_path / "s.txt.gz", out=tmp_path / "s.h5", beta=0.3, model="ising")
    np.testing.assert_array_equal(made, spins(20))
    with sk.open(tmp_path / "s.h5") as again:
        assert (again.dtype, again.beta, again.boundary) == (np.int8, 0.3, "periodic")
        assert (again.model, again.input, again.channels) == ("ising", "s.txt.gz", "spin")
    with open_dataset(tmp_path / "s.h5") as stored:
        assert stored["field"].dtype == np.int8
    before = (tmp_path / "s.h5").read_bytes()
    with pytest.raises(InputError, match="exists already; pass `overwrite=True`"):
        sk.import_fields(spins(), out=tmp_path / "s.h5")
    with pytest.raises(InputError, match="data_range"):
        sk.import_fields(
            np.random.default_rng(0).random((9, 8, 8)), out=tmp_path / "s.h5", overwrite=True
        )
    assert (tmp_path / "s.h5").read_bytes() == before


def test_an_archive_made_here_says_what_it_is(tmp_path):
    truth = sk.generate_ising(L=8, samples=64)
    sk.save(truth[40:50], tmp_path / "s.npz")
    fields = sk.open(tmp_path / "s.npz")
    assert (fields.dtype, fields.model, fields.boundary) == (np.int8, "ising", "periodic")
    assert fields["sample"].values.tolist() == list(range(40, 50))
    made = sk.eval_correlators(truth=truth, some=fields.assign_attrs(protocol="paired"))
    # these very spins
    assert float(abs(made.residual("kappa4").sel(source="some")).max()) == 0


# info


def test_info_of_everything(tmp_path):
    sk.generate_ising(L=16, samples=300, seed=1, out=tmp_path / "i.h5").close()
    said = sk.info(tmp_path / "i.h5").values
    assert said["fields"] == "300 of 16 x 16, spin"
    assert said["values"].startswith("spins -1 and +1 (of the first 256)")
    assert (said["model"], said["boundary"], said["beta"]) == ("ising", "periodic", "0.4406867935")
    assert "join as on a torus" in said["edges"]
    assert "alpha = 0." in said["slope"]
    assert "SKILD" in sk.info("bundled").values["model"]
    sk.fit_spectrum(tmp_path / "i.h5", out=tmp_path / "s.nc")
    assert "alpha" in sk.info(tmp_path / "s.nc").values["spectrum"]
    sk.eval_correlators(it=tmp_path / "i.h5").save(tmp_path / "c.nc")
    assert sk.info(tmp_path / "c.nc").values["of"] == "it"
    assert sk.info(np.ones((1, 8, 8))).values["slope"].startswith("none")


# files that are open elsewhere


def test_files_open_elsewhere_are_neither_damaged_nor_replaced(tmp_path):
    path = tmp_path / "growing.h5"
    np.save(tmp_path / "spins.npy", spins())
    code = (
        "import sys, h5py, numpy\n"
        f"with h5py.File({str(path)!r}, 'w') as file:\n"
        f"    file['spins'] = numpy.load({str(tmp_path / 'spins.npy')!r})\n"
        "    file.flush(); print('open', flush=True); sys.stdin.readline()\n"
        "    file['more'] = numpy.ones(3)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as writing:
        assert writing.stdout.readline() == "open\n"
        refused(path, "growing.h5: is open elsewhere, for writing")
        for write in (sk.save, sk.import_fields):
            with pytest.raises(InputError, match=r"growing\.h5: is open for writing elsewhere"):
                write(spins(), out=path, overwrite=True)
        writing.communicate("\n")
    with h5py.File(path) as file:
        assert file["spins"].shape == (9, 6, 6)
        assert file["more"].shape == (3,)
    sk.save(spins(), path, overwrite=True).close()


def test_a_summary_of_anything(tmp_path):
    np.save(tmp_path / "a.npy", (spins(64) + 1) // 2)
    assert sk.summarize(tmp_path / "a.npy").energy == pytest.approx(energy(spins(64)))
