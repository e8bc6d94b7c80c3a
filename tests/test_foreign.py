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
    refused(tmp_path / "link.h5", "x lies in other files")
    refused(f"{tmp_path}/link.h5:x", "x lies in other files")
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


# what two strangers found


def test_chains_follow_one_another(tmp_path):
    """Of a real autocorrelation, which lines in the order of time would hide."""
    chains = np.stack([sk.generate_ising(L=8, samples=40, seed=i).values for i in range(3)])
    turned = np.moveaxis(chains, 0, 1)
    named = xr.DataArray(turned, dims=("sweep", "replica", "y", "x"))
    np.save(tmp_path / "c.npy", turned)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["s"] = turned
    dims = ("sample", "chain", "y", "x")
    for source, options in (
        (named, {}),
        (turned, {"dims": dims}),
        (tmp_path / "c.npy", {"dims": dims}),
        (tmp_path / "c.h5", {"dims": dims}),
    ):
        fields = sk.open(source, **options)
        np.testing.assert_array_equal(fields.values, chains.reshape(-1, 8, 8))
        np.testing.assert_array_equal(fields[[100, 7]].values, chains.reshape(-1, 8, 8)[[100, 7]])
        np.testing.assert_array_equal(fields["chain"], np.repeat(np.arange(3), 40))
    refused(np.ones((5, 9, 8, 8)), "which axes are the first two?", "`dims=chain,sample,y,x`")
    only = xr.DataArray(chains[:, 0], dims=("replica", "y", "x"))
    assert sk.open(only).shape == (3, 8, 8)


def test_pixels_that_overshoot_are_asked_for():
    """As bicubic enlargement leaves them; Pillow's clipped ones are the reference."""
    bright = np.random.default_rng(0).random((12, 3, 16, 16))
    over = bright * 1.2 - 0.1
    for values in (over, over[:, :1]):
        refused(values, "`data_range=1`")
        found = sk.open(values, data_range=1).values.reshape(values.shape)
        np.testing.assert_allclose(found, 2 * values - 1, atol=1e-6)
    clipped = sk.eval_images(a=bright, b=over, metrics=["psnr"], data_range=1)
    pixels = [np.rint(255 * np.clip(x, 0, 1)) for x in (bright, over)]
    mse = ((pixels[0] - pixels[1]) ** 2).mean((1, 2, 3))
    found = clipped.dataset["psnr"].sel(source="b").values
    np.testing.assert_allclose(found, 10 * np.log10(255**2 / mse), atol=1e-6)


def test_a_field_of_another_range_is_named():
    values = np.random.default_rng(0).random((300, 3, 64, 64))
    values[200] = 2 * values[200] - 1
    with pytest.raises(InputError, match=r"values of field 200, -\d.* lie outside"):
        sk.open(values)[190:210].values  # noqa: B018


@pytest.mark.parametrize("dims", ["n c w h", "N C W H", "time band easting northing"])
def test_names_of_axes_are_not_positions(dims):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    turned = xr.DataArray(np.moveaxis(pixels, -1, -2), dims=dims.split())
    np.testing.assert_array_equal(sk.open(turned), sk.open(pixels))
    refused(turned.rename(dict(zip(dims.split(), "abde", strict=True))), "which is what?")


def test_axes_of_parameters_are_no_samples():
    fields = xr.DataArray(np.ones((3, 8, 8)), dims=("beta", "y", "x"))
    refused(fields, "fields of several beta are not of one ensemble")
    several = xr.DataArray(spins(), {"beta": ("n", np.linspace(0.3, 0.5, 9))}, ("n", "y", "x"))
    with pytest.raises(InputError, match=r"a: fields of several beta, 0\.3 \.\. 0\.5"):
        sk.eval_correlators(a=several)
    same = several.assign_coords(beta=("n", np.full(9, 0.3)))
    assert float(sk.eval_correlators(a=same).dataset["beta"][0]) == 0.3


def test_one_channel_of_several(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    fields = sk.open(pixels)
    red = fields.isel(channel=0)
    for one in (red, fields.isel(channel=[0]), fields.sel(channel="channel 1")):
        coarse = sk.coarse_grain(one, factor=2).values.reshape(9, 4, 4)
        expected = fields.values[:, 0].reshape(9, 4, 2, 4, 2).mean((2, 4))
        np.testing.assert_allclose(coarse, expected, atol=1e-6)
        assert sk.save(one, tmp_path / "a.h5", overwrite=True).shape[0] == 9
    assert sk.eval_images(a=red, b=-red, metrics=["psnr"]).rows


def test_what_lies_in_memory():
    data = xr.Dataset({"s": (("n", "y", "x"), spins()), "t": ("n", np.arange(9))})
    np.testing.assert_array_equal(sk.open(data), spins())
    refused(data.assign(u=data["s"]), "the dataset: which array?", "u (9, 6, 6)")
    refused([np.ones((3, 4)), np.ones(3)], "array: list is no array")
    refused(torch.eye(3).to_sparse(), "array: Tensor is no array")
    refused(np.ma.masked_array(spins(), spins() > 0), "holds masked values")
    np.testing.assert_array_equal(sk.open(np.ma.masked_array(spins())), spins())
    assert float(sk.eval_correlators(spins()).dataset["energy"][0]) == pytest.approx(
        energy(spins())
    )


TEXTS = {
    "one a line": lambda s: "\n".join(map(str, s.ravel())),
    "seven a line, the last shorter": lambda s: "\n".join(
        " ".join(map(str, s.ravel()[i : i + 7])) for i in range(0, s.size, 7)
    ),
    "twelve a line": lambda s: "\n".join(" ".join(map(str, row)) for row in s.reshape(-1, 12)),
    "rows": lambda s: "\n".join(" ".join(map(str, row)) for row in s.reshape(-1, 6)),
    "squares": lambda s: "\n\n".join(
        "\n".join(" ".join(map(str, row)) for row in each) for each in s
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(tmp_path, kind):
    (tmp_path / "a.dat").write_text(TEXTS[kind](spins()))
    np.testing.assert_array_equal(sk.open(tmp_path / "a.dat", L=6), spins())
    if kind == "squares":
        np.testing.assert_array_equal(sk.open(tmp_path / "a.dat"), spins())
    else:
        refused(tmp_path / "a.dat", "shape" if kind == "twelve a line" else "`L`")


def test_rows_and_bits_that_may_be_two_things():
    rows = spins(64, 16).reshape(-1, 16)
    refused(rows, "64 fields of 16 x 16, one below the other or 1024 flattened fields of 4 x 4")
    np.testing.assert_array_equal(sk.open(rows, L=16), spins(64, 16))
    packed = np.packbits(spins(64, 16) > 0)
    refused(packed, "2048 bytes of fields, or of 64 as bits?", L=16)


def test_a_rare_third_value_is_an_error():
    for dtype in (np.int8, np.float32):
        stored = spins(200, 16).astype(dtype)
        stored[150, 1, 1] = 3
        with pytest.raises(InputError, match="field 150 holds 3"):
            sk.fit_spectrum(stored)
    # spins of three states are no error of two
    three = np.random.default_rng(0).integers(-1, 2, (9, 8, 8))
    np.testing.assert_array_equal(sk.open(three), three)
    field = np.random.default_rng(0).normal(size=(200, 16, 16))
    field[150, 3, 3] = 9999
    with pytest.raises(InputError, match="field 150 holds 9999"):
        sk.fit_spectrum(field)


def test_what_a_file_says_of_beta(tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s"], file["beta"] = spins(), 0.3
    np.savez(tmp_path / "a.npz", s=spins(), beta=0.3)
    given = xr.DataArray(spins(), {"beta": 0.3}, ("n", "y", "x"))
    for source in (tmp_path / "a.h5", tmp_path / "a.npz", given):
        assert sk.open(source).beta == 0.3
    for wrong in ("critical", np.linspace(0.3, 0.5, 9), np.nan):
        caplog.clear()
        assert "beta" not in sk.open(given.drop_vars("beta").assign_attrs(beta=wrong)).attrs
        assert "its beta is no number" in caplog.text
    sk.open(given.drop_vars("beta").assign_attrs(T=2.2))
    assert "its T is not taken; `beta` is 1/T" in caplog.text


def test_a_field_in_each_array(tmp_path):
    many = {f"c{i}": each for i, each in enumerate(spins(12))}
    np.savez(tmp_path / "a.npz", **many)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, each in many.items():
            file[f"configurations/{name}"] = each
    torch.save([torch.from_numpy(each) for each in spins(12)], tmp_path / "a.pt")
    torch.save({"state": {"samples": torch.from_numpy(spins(12))}, "n": 3}, tmp_path / "b.pt")
    for name in ("a.npz", "a.h5", "a.pt", "b.pt"):
        np.testing.assert_array_equal(sk.open(tmp_path / name), spins(12))


def test_stores_of_zarr_itself(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.save(str(tmp_path / "one.zarr"), spins())
    np.testing.assert_array_equal(sk.open(tmp_path / "one.zarr"), spins())
    group = zarr.open(str(tmp_path / "more.zarr"), mode="w")
    group["a"], group["b"] = spins(), np.arange(4)
    np.testing.assert_array_equal(sk.open(tmp_path / "more.zarr")[[3, 1]], spins()[[3, 1]])
    np.testing.assert_array_equal(sk.open(f"{tmp_path}/more.zarr:a").values, spins())


@pytest.mark.parametrize("suffix", [".npy", ".pt", ".csv", ".zarr"])
def test_fields_are_not_written_under_the_name_of_another_format(tmp_path, suffix):
    with pytest.raises(InputError, match=f"not as {suffix}"):
        sk.save(spins(), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


# what a referee found


def test_arrays_that_are_not_one_ensemble_are_not_joined(tmp_path):
    one = spins(4)
    for names in (("phi", "phi_err"), ("0.3", "0.4", "0.5"), ("c0", "c1", "mean"), ("c0", "c2")):
        np.savez(tmp_path / "a.npz", **{name: one[0] for name in names})
        refused(tmp_path / "a.npz", "which array?", names[1])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for i, beta in enumerate((0.3, 0.3, 0.4)):
            file[f"c{i}"] = one[i]
            file[f"c{i}"].attrs["beta"] = beta
        for i in range(4):
            file[f"low/{i}"] = one[i]
    refused(tmp_path / "b.h5", "which array?")
    np.testing.assert_array_equal(sk.open(f"{tmp_path}/b.h5:low"), one)
    with h5py.File(tmp_path / "b.h5", "a") as file:
        del file["low"]
    refused(tmp_path / "b.h5", "c0 says {'beta': 0.3}, c2 something else")


def test_a_beta_for_each_field(tmp_path, caplog):
    several, same = np.linspace(0.3, 0.5, 9), np.full(9, 0.42)
    for beta in (several, same):
        folder = tmp_path / f"{beta is same}"
        folder.mkdir()
        np.savez(folder / "a.npz", s=spins(), beta=beta)
        with h5py.File(folder / "a.h5", "w") as file:
            file["s"], file["beta"] = spins(), beta
        data = xr.Dataset({"s": (("n", "y", "x"), spins()), "beta": ("n", beta)})
        data.to_netcdf(folder / "a.nc", engine="h5netcdf")
        for source in (folder / "a.npz", folder / "a.h5", folder / "a.nc", data):
            caplog.clear()
            fields = sk.open(source)
            if beta is same:
                assert fields.beta == 0.42
                continue
            assert "fields of several beta, 0.3 .. 0.5" in caplog.text
            with pytest.raises(InputError, match="fields of several beta"):
                sk.eval_correlators(a=fields)
            refused(source, "has a beta for each field, not `beta=0.4`", beta=0.4)
    assert sk.open(xr.Dataset({"s": (("n", "y", "x"), spins())}, attrs={"beta": 0.4})).beta == 0.4


def test_patches_cut_out_of_tori_are_patches(caplog):
    truth = sk.generate_ising(L=16, samples=64, seed=1)
    for whole in (truth, sk.open(truth.values)):
        caplog.clear()
        found = sk.eval_correlators(a=whole[:, :8, :8]).dataset
        assert "8 x 8 of 16 x 16 sites: taken for patches" in caplog.text
        assert found.attrs["boundary"] == "open"
        s = truth.values[:, :8, :8].astype(float)
        bonds = np.stack([(s[:, 1:] * s[:, :-1]).mean(), (s[:, :, 1:] * s[:, :, :-1]).mean()])
        assert float(found["energy"][0]) == pytest.approx(-2 * bonds.mean(), abs=1e-12)


def test_bytes_are_bytes_beside_other_ranges():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16), dtype=np.uint8)
    noisy = np.clip(pixels + 10.0, 0, 255)
    found = sk.eval_images(
        a=pixels, b=(noisy * 257).astype(np.uint16), metrics=["psnr"], data_range=65535
    )
    mse = ((np.rint(noisy) - pixels) ** 2).mean((1, 2))
    psnr = found.dataset["psnr"].sel(source="b").values
    np.testing.assert_allclose(psnr, 10 * np.log10(255**2 / mse), atol=1e-6)


def test_pictures_mapped_after_they_were_opened(caplog):
    fields = sk.open("photographs-test", size=64)[:8]
    sk.eval_images(a=fields, b=(fields + 1) / 2, metrics=["psnr"])
    assert "b: no value of these fields in [-1, 1] is negative" in caplog.text


def test_tables_scales_and_bits(tmp_path, caplog):
    table = "\n".join(f"{i} {j} 1" for i in range(16) for j in range(16))
    (tmp_path / "t.txt").write_text(table)
    refused(tmp_path / "t.txt", "shape (256, 3)", L=16)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        stored = np.random.default_rng(0).integers(-400, 400, (9, 6, 6), dtype=np.int16)
        file["t"] = stored
        file["t"].attrs.update(scale_factor=0.01, add_offset=273.0)
    np.testing.assert_allclose(sk.open(tmp_path / "s.h5"), stored * 0.01 + 273, rtol=1e-6)
    sk.open(np.packbits(spins(20).reshape(20, -1) > 0, axis=1), L=6)
    assert "in the order of numpy.packbits" in caplog.text


def test_grey_folders_written_here_are_grey_again(tmp_path):
    sk.save(sk.generate_ising(L=16, samples=9), tmp_path / "lattices")
    again = sk.open(tmp_path / "lattices")
    assert (again.dims, again.model, again.boundary) == (("sample", "y", "x"), "ising", "periodic")
