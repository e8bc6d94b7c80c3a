"""Damaged and hostile files: one line or the right values; no crash, no hang, nothing believed."""

import gzip
import json
import os
import random
import shutil
import stat
import struct
import zipfile

import h5py
import mutations
import numpy as np
import pytest
import torch
from command_line import run
from mutations import CASES, faults, make_valid, parts_of_safetensors

import skild_physics as sk
from skild_physics.data_gen.store import fletcher32
from skild_physics.files import LONGEST
from skild_physics.models.checkpoint import load, save_model
from skild_physics.training import execution
from skild_physics.training.state import load_state

FLIPS = 24
ZEROS = np.zeros((1, 64, 64))


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A folder of valid files of every kind."""
    folder = tmp_path_factory.mktemp("valid")
    make_valid(folder)
    return folder


def assert_no_faults(valid, scratch, numbers):
    found = [" | ".join(map(str, each)) for each in faults(valid, scratch, numbers)]
    assert not found, "\n".join([f"{len(found)} of {len(numbers)}", *found])


def test_a_hundred_changed_files_are_read_or_refused(valid, tmp_path):
    assert_no_faults(valid, tmp_path, range(2 * len(CASES)))


@pytest.mark.slow
def test_two_thousand_changed_files_are_read_or_refused(valid, tmp_path):
    assert_no_faults(valid, tmp_path, range(2000))


def test_the_driver_knows_faults(tmp_path):
    """Else what it does not find proves nothing."""
    done = mutations.attempt("info missing.h5", tmp_path)
    assert mutations.verdict(done.returncode, "Error: no", ["missing.h5"], tmp_path)
    assert not mutations.verdict(done.returncode, done.stderr.strip(), ["missing.h5"], tmp_path)
    assert mutations.verdict(1, "Error: train.h5: KeyError", ["train.h5"], tmp_path)
    assert mutations.verdict(2, "Error: train.h5: " + "x" * LONGEST, ["train.h5"], tmp_path)
    assert not mutations.verdict(2, "Error: train.h5: damaged", ["train.h5"], tmp_path)


READERS = {
    "train.h5": lambda path: sk.open(path).values,
    "coarse.h5": lambda path: sk.open(path).values,
    "pictures.h5": lambda path: sk.open(path).values,
    "spectrum.nc": lambda path: sk.Spectrum.load(path).variance,
    "correlators.nc": lambda path: sk.Correlators.load(path).dataset["kappa4"].values,
    "draws.nc": lambda path: sk.Draws.load(path).dataset["inner"].values,
    "run/model.safetensors": lambda path: np.concatenate(
        [w.detach().numpy().ravel() for w in load(path).network.parameters()]
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_no_bit_that_is_turned_over_changes_what_is_read(valid, tmp_path, name):
    data, rng = (valid / name).read_bytes(), random.Random(name)
    good, path = READERS[name](valid / name), tmp_path / os.path.basename(name)
    refused = 0
    for _ in range(FLIPS):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = READERS[name](path)
        except sk.InputError as error:
            refused += path.name in str(error)
            continue
        np.testing.assert_array_equal(found, good)
    # the rest is what nobody reads
    assert refused > FLIPS / 8


def test_equal_checkpoints_are_equal_bytes(valid, tmp_path):
    model = load(valid / "run")
    for name in "ab":
        save_model(tmp_path / f"{name}.safetensors", model)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    header, _ = parts_of_safetensors((tmp_path / "a.safetensors").read_bytes())
    assert list(header) == sorted(header)
    again = load(tmp_path / "a.safetensors")
    for one, other in zip(again.network.parameters(), model.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_that_ask_for_more_than_there_is(valid, tmp_path):
    header, tensors = parts_of_safetensors((valid / "run/model.safetensors").read_bytes())
    about = header["__metadata__"]
    del about["sha256"]
    config = json.loads(about["config"])
    config["network"]["channels"] = [65536]
    about["config"] = json.dumps(config)
    text = json.dumps(header).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    with pytest.raises(sk.InputError, match=r"`network`.* would take .* of memory"):
        load(path)


def test_a_virtual_dataset_that_names_itself(valid, tmp_path):
    """Reading it crashes HDF5."""
    for name, dataset in (("train.h5", "spins"), ("spectrum.nc", "variance"), ("new.h5", "spins")):
        path = tmp_path / name
        if (valid / name).exists():
            shutil.copy(valid / name, path)
        with h5py.File(path, "a") as file:
            shape = file[dataset].shape if dataset in file else (9, 8, 8)
            if dataset in file:
                del file[dataset]
            layout = h5py.VirtualLayout(shape, "i1")
            layout[...] = h5py.VirtualSource(".", dataset, shape)
            file.create_virtual_dataset(dataset, layout)
        for read in (sk.open, sk.Spectrum.load, sk.Correlators.load, sk.Draws.load, sk.info):
            with pytest.raises(sk.InputError, match="lies in other files"):
                read(path)


def crafted(valid, tmp_path, name, values):
    path = tmp_path / "crafted.h5"
    shutil.copy(valid / "train.h5", path)
    with h5py.File(path, "r+") as file:
        if values is None:
            values = file[name][()]
            values.flat[-1] = 7
        del file[name]
        file[name] = values
    return path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("state/spins", np.ones((16, 64, 64), np.int8)),
        ("state/spins", np.ones((16, 8, 8), np.float64)),
        ("state/spins", np.zeros((16, 8, 8), np.int8)),
        ("state/spins", None),
        ("state/rng", np.zeros((16, 4), np.uint64)),
        ("state/rng", np.ones((4,), np.uint64)),
        ("state/rng", np.ones((16, 4), np.float64)),
        ("spins", np.ones((200, 1, 1), np.int8)),
        ("spins", np.ones((16, 16), np.int8)),
        ("spins", np.ones((200, 8, 8), np.complex128)),
        ("spins", np.ones((200, 1, 8, 8), np.int8)),
        ("spins", np.ones((2, 100, 1, 8, 8), np.int8)),
        ("energy", np.ones((200, 2))),
        ("chain", np.ones(200)),
    ],
)
def test_ensembles_are_not_extended_from_what_is_none(valid, tmp_path, name, values):
    path = crafted(valid, tmp_path, name, values)
    before = path.read_bytes()
    with pytest.raises(sk.InputError, match=r"crafted\.h5"):
        sk.generate_ising(8, samples=300, seed=1, out=path)
    assert path.read_bytes() == before


def test_ensembles_without_checksums_are_read_and_extended(valid, tmp_path):
    path = tmp_path / "old.h5"
    with h5py.File(valid / "train.h5") as new, h5py.File(path, "w") as old:
        for name in new.attrs:
            old.attrs[name] = new.attrs[name]
        for name in (*new, "state/spins", "state/rng"):
            if name != "state":
                how = {"chunks": new[name].chunks, "maxshape": new[name].maxshape}
                old.create_dataset(name, data=new[name][()], **how)
        for i, dim in enumerate(("sample", "y", "x")):
            old[dim].make_scale(dim)
            old["spins"].dims[i].attach_scale(old[dim])
        for name in ("energy", "magnetization", "chain", "update"):
            old[name].dims[0].attach_scale(old["sample"])
    assert not h5py.File(path)["spins"].fletcher32
    with sk.generate_ising(8, samples=300, seed=1, out=path) as extended:
        ours = extended.values
    assert h5py.File(path)["spins"].fletcher32
    np.testing.assert_array_equal(ours, sk.generate_ising(8, samples=300, seed=1).values)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 1000, 99_999])
def test_checksums_are_those_of_hdf5(tmp_path, length):
    data = random.Random(length).randbytes(length) or b"\0" * 8
    with h5py.File(tmp_path / "x.h5", "w") as file:
        stored = file.create_dataset(
            "x", (len(data),), "u1", chunks=(len(data),), compression="gzip", fletcher32=True
        )
        packed = gzip.zlib.compress(data)
        stored.id.write_direct_chunk((0,), packed + fletcher32(packed))
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["x"][()].tobytes() == data


@pytest.mark.parametrize(
    "read",
    [
        sk.open,
        sk.info,
        sk.load,
        sk.load_config,
        sk.Spectrum.load,
        sk.Correlators.load,
        sk.Draws.load,
        load_state,
        lambda path: sk.fit_spectrum(path, variance_map=True),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_is_not_opened(tmp_path, read, kind):
    path = tmp_path / "endless"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(
        sk.InputError, match=r"endless: (is neither a file|is no file|no such file)"
    ):
        read(path)


def test_pipes_among_pictures_are_left_out(valid, tmp_path):
    shutil.copytree(valid / "pictures", tmp_path / "pictures")
    os.mkfifo(tmp_path / "pictures" / "9.png")
    assert len(sk.open(tmp_path / "pictures")) == 3


def test_claims_are_compared_with_files(tmp_path, monkeypatch):
    header = "{'descr': '|i1', 'fortran_order': False, 'shape': (1099511627776, 8, 8), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("spins.npy", array)
    with h5py.File(tmp_path / "claims.h5", "w") as file:
        file.create_dataset("spins", (2**40, 8, 8), "i1", chunks=(64, 8, 8))
        file["spins"][:64] = 1
    torch.save(torch.ones(1).expand(2**20, 2**20), tmp_path / "claims.pt")
    for name in ("claims.npz", "claims.h5", "claims.pt"):
        with pytest.raises(sk.InputError, match=name):
            sk.open(tmp_path / name)
    # what a compressed archive or text may hold depends on the memory there is
    np.savez_compressed(tmp_path / "bomb.npz", spins=np.ones((1000, 64, 64), np.int8))
    text = gzip.compress(b"1 " * 32 * 64 * 1000)
    (tmp_path / "bomb.txt.gz").write_bytes(text)
    assert len(sk.open(tmp_path / "bomb.npz")) == 1000
    for module in ("skild_physics.memory", "skild_physics.fields.arrays"):
        monkeypatch.setattr(f"{module}.free_memory", lambda: 2**20)
    for name in ("bomb.npz", "bomb.txt.gz"):
        with pytest.raises(sk.InputError, match=rf"{name}: .*memory"):
            sk.open(tmp_path / name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: sk.generate_ising(8, samples=10**14, out=out), "GiB of disk"),
        (lambda out: sk.generate_ising(8, samples=10**14), "GiB of memory"),
        (lambda out: sk.generate_ising(8, updates=10**26), "`updates` must be at most"),
        (lambda out: sk.generate_ising(8, seed=10**30), "`seed` must lie"),
        (lambda out: sk.generate_ising(10**5), "`L` must lie"),
        (lambda out: sk.sample_exact(ZEROS, 2, beta=1, draws=10**14), "GiB of memory"),
        (
            lambda out: sk.sample_exact(ZEROS, 2**5, beta=1, sweeps=1, draws=10**7, out=out),
            "GiB of disk",
        ),
        (lambda out: sk.sample_exact(ZEROS, 2**9, beta=1), "GiB of memory"),
        (lambda out: sk.sample_exact(ZEROS, 2**60, beta=1), "must lie in 3 .. 32768"),
        (lambda out: sk.sample_exact(ZEROS, 2, beta=1, sweeps=10**30), "`sweeps` must be at most"),
        (lambda out: sk.sample_exact(ZEROS, 2, beta=1, seed=10**30), "`seed` must lie"),
        (lambda out: sk.relax(ZEROS, 10**30, beta=1), "`sweeps` must be at most"),
        (lambda out: sk.relax(ZEROS, 1, beta=1, seed=10**30), "`seed` must lie"),
        (lambda out: sk.relax(ZEROS + 1, 1, factor=2**60, beta=1), "must divide"),
        (lambda out: sk.load("bundled").generate(10**14), "GiB of memory"),
        (lambda out: sk.load("bundled").generate(10**14, out=out), "GiB of disk"),
        (lambda out: sk.load("bundled").generate(1, L=10**7), "GiB of memory"),
        (lambda out: sk.load("bundled").enlarge(np.ones((1, 64, 64)), 2**20), "GiB of memory"),
        (lambda out: sk.interpolate(np.ones((1, 64, 64)), factor=1e9), "GiB of memory"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_begun(tmp_path, make, message):
    with pytest.raises(sk.InputError, match=message):
        make(tmp_path / "never.h5")
    assert not list(tmp_path.iterdir())


def test_messages_are_one_line_that_can_be_printed():
    error = str(sk.InputError("file.h5: \x1b[31m" + "x\n" * 5000 + "the end"))
    assert len(error) <= LONGEST
    assert error.isprintable()
    assert error.startswith("file.h5: ")
    assert error.endswith("the end")


def test_compiled_code_lies_where_only_its_owner_writes(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(execution.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    with execution.compiling(print):
        own = tmp_path / "skild_physics" / "torchinductor"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own)
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
    own.chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with execution.compiling(print):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] != str(own)


def test_configurations_nested_without_end(valid, tmp_path):
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    done = run(f"train {tmp_path / 'deep.toml'} --dry-run", valid, code=2)
    assert "deep.toml" in done.stderr
    done = run("train config.toml --dry-run --set training=1", valid, code=2)
    assert "training" in done.stderr
