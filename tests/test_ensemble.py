import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from skild_physics.claims import claimed, work_folder
from skild_physics.data_gen import IsingParameters, generate
from skild_physics.fields.lattice import open_dataset
from skild_physics.files import InputError, is_locked
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.observables.jackknife import jackknife


@pytest.mark.parametrize(
    ("L", "beta", "samples"),
    [
        (16, BETA_CRITICAL, 160_000),
        (32, BETA_CRITICAL, 60_000),
        (7, BETA_CRITICAL, 20_000),
        (12, 0.3, 20_000),
        (12, 0.6, 20_000),
    ],
)
def test_energy_is_kaufmans(tmp_path, L, beta, samples):
    """Energy within 4 sigma of the exact torus; at L = 16 and 32 with sigma <= 5e-4."""
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(L, beta, seed=11), samples, workers=2)
    with open_dataset(path) as data:
        energy = data["energy"].values
        spins = data["spins"][:100].values
        shown = energy[:100]
    value, stderr = jackknife(energy, lambda mean: mean)
    if L in (16, 32):
        assert stderr <= 5e-4
    assert abs(value - torus_energy(L, beta)) < 4 * stderr
    right = (spins * np.roll(spins, -1, 2)).sum((1, 2), dtype=int)
    below = (spins * np.roll(spins, -1, 1)).sum((1, 2), dtype=int)
    np.testing.assert_allclose(shown, -(right + below) / L**2, rtol=1e-12)


def test_magnetisation_moments_match_enumeration(tmp_path):
    """<m^2> and <m^4> of the 4 x 4 torus, which the energy alone does not fix."""
    L = 4
    states = np.arange(2**16)
    s = 1 - 2 * ((states[:, None] >> np.arange(16)) & 1).reshape(-1, L, L)
    weight = np.exp(BETA_CRITICAL * (s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2)))
    m = s.mean((1, 2))
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(L, seed=5), 50_000, workers=2)
    with open_dataset(path) as data:
        measured = data["magnetization"].values
    for power in (2, 4):
        exact = (weight * m**power).sum() / weight.sum()
        value, stderr = jackknife(measured**power, lambda mean: mean)
        assert abs(value - exact) < 4 * stderr
    value, stderr = jackknife(measured, lambda mean: mean)
    assert abs(value) < 4 * stderr


@pytest.mark.parametrize("beta", [0.0, -0.3, 0.3, -0.5])
def test_independent_spins_and_antiferromagnets_match_enumeration(tmp_path, beta):
    """<e>, <e^2>, <m^2>, <m^4> and the staggered <m^2> of all 2^16 states; no sign of m."""
    L = 4
    states = np.arange(2**16)
    s = (1 - 2 * ((states[:, None] >> np.arange(16)) & 1)).reshape(-1, L, L)
    y, x = np.indices((L, L))
    staggered = (-1) ** (x + y)

    def quantities(s):
        bonds = s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))
        e, m, n = -bonds.mean((1, 2)), s.mean((1, 2)), (s * staggered).mean((1, 2))
        return np.stack([e, e**2, m**2, m**4, n**2, m, n], axis=1)

    weight = np.exp(beta * (s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2)))
    exact = weight @ quantities(s) / weight.sum()
    path = tmp_path / "ising.h5"
    generate(path, IsingParameters.planned(L, beta, seed=5), 40_000, workers=2)
    with open_dataset(path) as data:
        spins = data["spins"].values
        energy, magnetization = data["energy"].values, data["magnetization"].values
    np.testing.assert_array_equal(energy, energy_per_spin(spins.astype(float)))
    np.testing.assert_array_equal(magnetization, spins.mean((1, 2)))
    value, stderr = jackknife(quantities(spins.astype(int)), lambda mean: mean, n_blocks=100)
    assert np.abs((value - exact) / stderr).max() < 4.5
    assert value[0] == pytest.approx(torus_energy(L, beta), abs=4.5 * stderr[0])


def test_independent_spins_are_independent(tmp_path):
    """At beta = 0: each site, and each pair of sites; 64 (16 + 120 + 1) tests at 5.5 sigma."""
    path, n = tmp_path / "free.h5", 20_000
    for samples in (1, 700, n):
        generate(path, IsingParameters.planned(5, 0.0, seed=1), samples)
    generate(tmp_path / "whole.h5", IsingParameters.planned(5, 0.0, seed=1), n, workers=2)
    assert_identical(path, tmp_path / "whole.h5")
    with open_dataset(path) as data:
        spins = data["spins"].values.reshape(n, -1).astype(float)
        assert data.attrs["algorithm"] == "independent spins"
        assert data.attrs["updates_between_samples"] == 1
        assert 0.9 * n < data.attrs["n_effective"] <= n
    assert np.abs(spins.mean(0)).max() < 5.5 / np.sqrt(n)
    pairs = spins.T @ spins / n - np.eye(25)
    assert np.abs(pairs).max() < 5.5 / np.sqrt(n)
    later = spins[16:].T @ spins[:-16] / n
    assert np.abs(later).max() < 5.5 / np.sqrt(n)


def test_antiferromagnets_go_on(tmp_path, small_shards):
    p = IsingParameters.planned(16, -BETA_CRITICAL, seed=3)
    mirror = IsingParameters.planned(16, BETA_CRITICAL, seed=3)
    assert p.updates_between_samples == mirror.updates_between_samples
    generate(tmp_path / "ferro.h5", mirror, 700)
    generate(tmp_path / "whole.h5", p, 700)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "parts.h5", p, 600, progress=interrupt_at(300))
    for samples in (600, 700):
        generate(tmp_path / "parts.h5", p, samples)
    assert_identical(tmp_path / "whole.h5", tmp_path / "parts.h5")
    with open_dataset(tmp_path / "ferro.h5") as one, open_dataset(tmp_path / "whole.h5") as other:
        y, x = np.indices((16, 16))
        turned = one["spins"].values * (-1) ** (x + y)
        np.testing.assert_array_equal(other["spins"].values, turned)
        np.testing.assert_allclose(other["energy"], -one["energy"], rtol=1e-12)
        np.testing.assert_allclose(other["magnetization"], turned.mean((1, 2)), atol=1e-15)
    with pytest.raises(ValueError, match=r"`L` must be even for a negative `beta`, got 7"):
        IsingParameters.planned(7, -0.3)


OPEN = """
import h5py, sys
with h5py.File(sys.argv[1], "r+") as file:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("seed", [3, 4])
def test_a_file_that_is_open_for_writing_is_not_replaced(
    tmp_path, reference, parameters, seed, overwrite
):
    before = reference.read_bytes()
    p = IsingParameters.planned(16, seed=seed)
    command = [sys.executable, "-c", OPEN, str(reference)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(ValueError, match="is open for writing elsewhere") as error:
            generate(reference, p, 10, overwrite=overwrite)
        assert "overwrite" not in str(error.value)
        assert is_locked(error.value)
        writer.communicate()
    assert reference.read_bytes() == before
    assert not list(reference.parent.glob(".*"))
    generate(reference, parameters, 10)


@pytest.fixture
def parameters():
    return IsingParameters.planned(16, seed=3)


SAMPLES = 1501


@pytest.fixture
def reference(tmp_path, parameters):
    path = tmp_path / "reference.h5"
    assert generate(path, parameters, SAMPLES) == SAMPLES
    return path


def contents(path):
    with h5py.File(path) as file:
        arrays = {
            name: file[name][:]
            for name in ("spins", "energy", "magnetization", "chain", "update", "state/rng")
        }
        return arrays, dict(file.attrs)


def assert_identical(a, b):
    (arrays_a, attrs_a), (arrays_b, attrs_b) = contents(a), contents(b)
    for name in arrays_a:
        np.testing.assert_array_equal(arrays_a[name], arrays_b[name], err_msg=name)
    assert attrs_a.keys() == attrs_b.keys()
    for name in attrs_a:
        assert attrs_a[name] == attrs_b[name], name


def test_workers_do_not_matter(tmp_path, parameters, reference):
    for workers in (2, 4):
        path = tmp_path / f"{workers}.h5"
        generate(path, parameters, SAMPLES, workers=workers)
        assert_identical(reference, path)


def test_extension_continues_the_chains(tmp_path, parameters, reference):
    path = tmp_path / "grown.h5"
    for samples in (1, 700, SAMPLES):
        generate(path, parameters, samples)
        with open_dataset(path) as data:
            assert data.sizes["sample"] == samples
    assert_identical(reference, path)
    assert generate(path, parameters, 10) == 0
    assert_identical(reference, path)


@pytest.fixture
def small_shards(monkeypatch):
    """256 fields of 16 x 16 in a shard."""
    monkeypatch.setattr("skild_physics.data_gen.store.SHARD_BYTES", 256 * 16**2)


def interrupt_at(field):
    def progress(done, note=""):
        if done >= field:
            raise KeyboardInterrupt

    return progress


def test_interrupted_run_goes_on(tmp_path, parameters, reference, small_shards):
    path = tmp_path / "stopped.h5"
    committed = []
    for stop_at in (200, 300, 600, 1000, 1200):
        with pytest.raises(KeyboardInterrupt):
            generate(path, parameters, SAMPLES, progress=interrupt_at(stop_at))
        with open_dataset(path) as data:
            committed.append(data.sizes["sample"])
            assert data.attrs["n_samples_committed"] == committed[-1]
    # the file doubles; what it does not hold yet waits in shards
    assert committed == [256, 512, 512, 1024, 1024]
    assert generate(path, parameters, SAMPLES) == SAMPLES - 1280
    assert_identical(reference, path)
    assert not list(tmp_path.glob(".*"))


def test_interrupted_between_commit_and_tidying(tmp_path, parameters, reference, small_shards):
    """Shards that are in the file already must not be joined to it again."""
    path = tmp_path / "stopped.h5"
    with pytest.raises(KeyboardInterrupt):
        generate(path, parameters, SAMPLES, progress=interrupt_at(256))
    parts = work_folder(path)
    stale = tmp_path / "stale"
    stale.write_bytes(path.read_bytes())
    with claimed(path):
        (parts / "0-256.h5").write_bytes(stale.read_bytes())
    generate(path, parameters, SAMPLES)
    assert_identical(reference, path)


def test_leftovers_of_a_finished_file_are_cleared_away(tmp_path, parameters):
    path = tmp_path / "made.h5"
    generate(path, parameters, 300)
    with claimed(path) as parts:
        (parts / "0-300.h5").write_bytes(path.read_bytes())
        (parts / "parameters.json").write_text("{}")
    assert generate(path, parameters, 300) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["made.h5"]


def test_damaged_shards_are_made_again(tmp_path, parameters, reference, small_shards):
    """The line of shards breaks where a bit is wrong, or what is in one cannot be meant."""
    path = tmp_path / "stopped.h5"
    rng = np.random.default_rng(0)
    for damage in range(12):
        with pytest.raises(KeyboardInterrupt):
            generate(path, parameters, SAMPLES, progress=interrupt_at(700))
        shard = max(work_folder(path).glob("*.h5"))
        data = bytearray(shard.read_bytes())
        if damage == 0:
            data = data[: len(data) // 2]
        elif damage == 1:
            with h5py.File(shard, "r+") as file:
                del file["state/rng"]
                file["state/rng"] = np.zeros((2, 4), np.uint64)
            data = shard.read_bytes()
        else:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        shard.write_bytes(data)
        generate(path, parameters, SAMPLES)
        assert_identical(reference, path)
        path.unlink()


def test_asking_for_fewer_fields_after_an_interruption(tmp_path, parameters, small_shards):
    path = tmp_path / "fewer.h5"
    with pytest.raises(KeyboardInterrupt):
        generate(path, parameters, SAMPLES, progress=interrupt_at(700))
    generate(path, parameters, 600)
    generate(tmp_path / "direct.h5", parameters, 600)
    assert_identical(path, tmp_path / "direct.h5")


def test_overwriting_keeps_the_old_file_until_the_new_one_is_there(tmp_path, parameters, reference):
    before = reference.read_bytes()
    other = IsingParameters.planned(16, seed=4)
    with pytest.raises(KeyboardInterrupt):
        generate(reference, other, SAMPLES, overwrite=True, progress=interrupt_at(0))
    assert reference.read_bytes() == before
    generate(reference, other, SAMPLES, overwrite=True)
    generate(tmp_path / "fresh.h5", other, SAMPLES)
    assert_identical(reference, tmp_path / "fresh.h5")


def test_metadata_says_how_independent_the_fields_are(tmp_path, parameters):
    generate(tmp_path / "wide.h5", parameters, 8000, workers=2)
    dense = IsingParameters.planned(16, seed=3, updates=1)
    generate(tmp_path / "dense.h5", dense, 8000, workers=2)
    with open_dataset(tmp_path / "wide.h5") as wide, open_dataset(tmp_path / "dense.h5") as close:
        assert wide.attrs["updates_between_samples"] == parameters.updates_between_samples
        assert 0.4 < wide.attrs["tau_int_energy"] < 0.65
        assert 8000 * 0.75 < wide.attrs["n_effective"] <= 8000
        # saved after every update the times in fields are those of the pilot in updates
        assert close.attrs["tau_int_energy"] == pytest.approx(
            close.attrs["pilot_tau_int_energy"], rel=0.25
        )
        assert close.attrs["n_effective"] < 5000
        assert wide.attrs["thermalization_updates"] == close.attrs["thermalization_updates"]


def test_fields_of_a_chain_are_a_fixed_number_of_updates_apart(reference, parameters):
    with open_dataset(reference) as data:
        for chain in range(parameters.n_chains):
            updates = data["update"].values[data["chain"].values == chain]
            assert set(np.diff(updates)) == {parameters.updates_between_samples}
            first = parameters.thermalization_updates + parameters.updates_between_samples
            assert updates[0] == first


def test_file_is_plain_hdf5(reference):
    with h5py.File(reference) as file:
        assert file["spins"].dtype == np.int8
        assert file["spins"].compression == "gzip"
        assert file["spins"].maxshape[0] is None
        assert set(np.unique(file["spins"][:])) == {-1, 1}
        assert file.attrs["schema"] == "skild_physics.ising"
        assert file.attrs["n_samples_committed"] == SAMPLES


def test_other_parameters_are_refused_and_harm_nothing(reference, parameters):
    before = reference.read_bytes()
    with pytest.raises(ValueError, match="seed = 3, not 4"):
        generate(reference, IsingParameters.planned(16, seed=4), 10)
    assert reference.read_bytes() == before
    generate(reference, IsingParameters.planned(16, seed=4), 10, overwrite=True)
    with open_dataset(reference) as data:
        assert data.attrs["seed"] == 4


def test_second_writer_is_refused(tmp_path, parameters):
    path = tmp_path / "shared.h5"
    refused = pytest.raises(InputError, match="another process")
    with claimed(path), ThreadPoolExecutor(1) as other, refused:
        other.submit(generate, path, parameters, 10).result()
    assert not list(tmp_path.iterdir())


def test_foreign_and_truncated_files_are_refused(tmp_path, reference, parameters):
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(reference.read_bytes()[:5000])
    for path in (foreign, text, truncated):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=path.name):
            open_dataset(path)
        with pytest.raises(ValueError, match=path.name):
            generate(path, parameters, 10)
        assert path.read_bytes() == before
    with h5py.File(reference, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(ValueError, match="newer"):
        open_dataset(reference)


@pytest.mark.parametrize(
    "bad",
    [
        {"L": 2},
        {"beta": float("inf")},
        {"beta": float("nan")},
        {"seed": -1},
        {"updates_between_samples": 0},
        {"n_chains": 0},
        {"thermalization_updates": -1},
        {"sweeps": -1},
        {"sweeps": 1, "L": 7},
    ],
)
def test_bad_parameters_are_named(bad):
    good = {
        "L": 8,
        "beta": 0.4,
        "seed": 0,
        "updates_between_samples": 5,
        "thermalization_updates": 10,
    }
    with pytest.raises(ValueError, match=next(iter(bad))):
        IsingParameters(**{**good, **bad})
