"""An ensemble in one call: in memory, in a file and by the command, and its summary."""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import fields as fields_of
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from command_line import run
from scipy import stats
from test_ensemble import assert_identical

from skild_physics.data_gen import IsingParameters, generate, generate_ising
from skild_physics.files import InputError
from skild_physics.observables.ensemble import EnsembleSummary, summarize
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy, torus_specific_heat

SKILD = str(Path(sys.executable).with_name("skild-physics"))


def same(one, other):
    """All but the name of the file."""
    xr.testing.assert_identical(one.assign_attrs(source=""), other.assign_attrs(source=""))


def generate_by_command(folder, options):
    command = [SKILD, "generate-ising", *options.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_in_memory_in_a_file_and_by_the_command(tmp_path, scratch):
    options = {"samples": 40, "seed": 4, "beta": 0.4, "updates": 3, "sweeps": 2}
    kept = generate_ising(8, **options)
    assert not list(scratch.iterdir())
    with generate_ising(8, **options, out=tmp_path / "made.h5", workers=2) as read:
        same(read, kept)
    generate_by_command(tmp_path, "--L 8 --samples 40 --seed 4 --beta 0.4 --updates 3 --sweeps 2")
    assert_identical(tmp_path / "made.h5", tmp_path / "ising-L8.h5")
    p = IsingParameters.planned(8, 0.4, seed=4, updates=3, sweeps=2)
    generate(tmp_path / "low.h5", p, 40)
    assert_identical(tmp_path / "made.h5", tmp_path / "low.h5")


def test_what_is_returned():
    fields = generate_ising(4, samples=20)
    assert (fields.name, fields.dims, fields.shape) == ("spins", ("sample", "y", "x"), (20, 4, 4))
    assert fields.dtype == np.int8
    assert set(np.unique(fields)) == {-1, 1}
    assert fields["sample"].dtype == np.int64
    np.testing.assert_array_equal(fields["sample"], np.arange(20))
    np.testing.assert_array_equal(fields["chain"], np.arange(20) % 16)
    spacing = fields.attrs["updates_between_samples"]
    assert int(fields["update"][16] - fields["update"][0]) == spacing
    bonds = fields.values * (np.roll(fields, 1, 1) + np.roll(fields, 1, 2))
    np.testing.assert_array_equal(fields["energy"], -bonds.mean((1, 2)))
    np.testing.assert_array_equal(fields["magnetization"], fields.values.mean((1, 2)))
    known = {"model": "ising", "L": 4, "boundary": "periodic", "basis": "periodic", "seed": 0}
    assert known.items() <= fields.attrs.items()
    assert fields.attrs["beta"] == BETA_CRITICAL
    assert fields.attrs["n_effective"] <= 20


def test_the_same_call_goes_on(tmp_path, scratch, caplog):
    caplog.set_level("INFO", "skild_physics")
    out = tmp_path / "ising.h5"
    for samples, said in ((10, "10 made at"), (60, "50 made at"), (60, "nothing left to make")):
        caplog.clear()
        with generate_ising(6, samples=samples, out=out) as fields:
            same(fields, generate_ising(6, samples=samples))
        assert said in caplog.text
    assert not list(scratch.iterdir())
    # of a longer file, what was asked for, and how independent that is
    with generate_ising(6, samples=35, out=out) as fields:
        few = generate_ising(6, samples=35)
        assert (fields.attrs.pop("n_samples_committed"), few.attrs.pop("n_samples_committed")) == (
            60,
            35,
        )
        same(fields, few)
        assert summarize(fields) == summarize(few)


def test_interrupted_and_resumed(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr("skild_physics.data_gen.store.SHARD_BYTES", 256 * 6**2)
    whole = generate_ising(6, samples=700)

    @contextmanager
    def interrupting(title, total):
        def show(done, note=""):
            if done >= 256:
                raise KeyboardInterrupt

        yield show

    for out in (None, tmp_path / "ising.h5"):
        with pytest.raises(KeyboardInterrupt):
            generate_ising(6, samples=700, out=out, progress=interrupting)
    assert not list(scratch.iterdir())
    with generate_ising(6, samples=700, out=tmp_path / "ising.h5") as fields:
        same(fields, whole)


def test_a_file_is_read_where_it_is_needed(tmp_path):
    out = tmp_path / "ising.h5"
    with generate_ising(8, samples=20, out=out) as fields:
        assert not fields.variable._in_memory
        np.testing.assert_array_equal(fields[3:5], generate_ising(8, samples=20)[3:5])


def test_another_ensemble_is_replaced_on_request(tmp_path):
    out = tmp_path / "ising.h5"
    generate_ising(8, samples=4, out=out).close()
    with pytest.raises(InputError, match=r"seed = 0, not 1; pass `overwrite=True`"):
        generate_ising(8, samples=4, seed=1, out=out)
    with generate_ising(8, samples=4, seed=1, out=out, overwrite=True) as fields:
        assert fields.attrs["seed"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("L", value) for value in (2, 2**16, 8.5, "8")),
        *(("samples", value) for value in (0, -1, 2.0, None)),
        *(("beta", value) for value in (float("nan"), float("-inf"), "hot", None)),
        *(("seed", value) for value in (-1, 0.5)),
        *((name, value) for name in ("updates", "workers") for value in (0, -2, 1.5, "many")),
        ("overwrite", True),
    ],
)
def test_bad_values_are_named(name, value, scratch):
    with pytest.raises(InputError, match=f"`{name}`"):
        generate_ising(**{"L": 8, name: value})
    assert not list(scratch.iterdir())


def test_integers_of_numpy(tmp_path):
    plain = generate_ising(8, samples=4, seed=2, updates=3)
    with generate_ising(
        np.int64(8),
        samples=np.int32(4),
        seed=np.uint8(2),
        updates=np.int64(3),
        beta=np.float64(BETA_CRITICAL),
        out=str(tmp_path / "ising.h5"),
    ) as fields:
        same(fields, plain)


@pytest.mark.parametrize(("L", "beta"), [(8, "critical"), (12, 0.3), (5, 0.6), (8, -0.4), (5, 0.0)])
def test_the_energy_is_kaufmans(L, beta):
    """Each ensemble against the torus of its own size and temperature."""
    found = summarize(generate_ising(L, samples=20_000, beta=beta, seed=2))
    assert found.energy_exact == torus_energy(L, BETA_CRITICAL if beta == "critical" else beta)
    assert found.n_blocks == 64
    assert abs(found.energy - found.energy_exact) < 4 * found.energy_stderr
    assert found.energy_sigma == (found.energy - found.energy_exact) / found.energy_stderr
    assert 10_000 < found.n_effective <= 20_000
    assert found.n_effective == min(
        20_000, 20_000 / (2 * max(found.tau_int_energy, found.tau_int_magnetization_squared))
    )


def test_a_summary_shows_itself():
    fields = generate_ising(8, samples=400, seed=1)
    found = summarize(fields)
    shown = repr(found)
    assert f"{found.energy:.3f}(" in shown
    assert "sigma" in shown
    assert f"effective sample size {found.n_effective:.0f} of 400 fields" in shown
    assert "jackknife" in shown
    assert "(" not in repr(summarize(fields[:7])).splitlines()[3]
    assert found.n_effective == fields.attrs["n_effective"]
    assert set(found.to_dict()) == {each.name for each in fields_of(EnsembleSummary)}
    p = 2 * stats.t(found.n_blocks - 1).sf(abs(found.energy_sigma))
    (said,) = found.in_words()
    agrees = "the energy is consistent with the exact one of this torus: "
    assert said == f"{agrees}{found.energy_sigma:+.1f} sigma, p = {p:.2g}"
    assert shown.splitlines()[-1] == said
    (said,) = summarize(fields.assign_attrs(beta=0.3)).in_words()
    assert said.startswith("the energy differs from the exact one of this torus: -")
    del fields.attrs["beta"]
    assert not summarize(fields).in_words()
    assert not summarize(generate_ising(8, samples=7)).in_words()


def test_the_summary_of_the_command(tmp_path):
    done = generate_by_command(tmp_path, "--L 8 --samples 300 --out a.h5 --json")
    found = json.loads(done.stdout)
    here = summarize(generate_ising(8, samples=300)).to_dict()
    assert {name: found.pop(name) for name in here} == here
    assert found.pop("fields_per_second") > 0
    size = (tmp_path / "a.h5").stat().st_size
    assert found == {"file": "a.h5", "bytes_per_field": size / 300, "made": 300}
    again = generate_by_command(tmp_path, "--L 8 --samples 100 --out a.h5 --json")
    found = json.loads(again.stdout)
    assert (found["samples"], found["made"], found["fields_per_second"]) == (100, 0, None)
    assert found["bytes_per_field"] == size / 300
    assert "nothing left to make" in again.stderr


def test_a_summary_of_bare_spins():
    """Without coordinates energies are computed; without attributes none is exact."""
    fields = generate_ising(6, samples=300)
    full = summarize(fields)
    bare = summarize(fields.drop_vars(["energy", "magnetization"]))
    assert bare == full
    unknown = summarize(xr.DataArray(fields.values.astype(float), dims=fields.dims))
    assert (unknown.energy, unknown.samples) == (full.energy, 300)
    assert np.isnan(unknown.energy_exact)
    assert "sigma" not in repr(unknown)
    # parts of lattices are no tori of the size that the attributes speak of
    part = summarize(fields[:, :4, :4])
    assert np.isnan(part.energy_exact)
    assert part.energy != full.energy


def test_a_summary_is_of_spins():
    for shape in ((4, 8), (4, 8, 9), (4, 2, 8, 8), (0, 8, 8)):
        with pytest.raises(InputError, match=r"shape|no fields"):
            summarize(np.ones(shape, np.int8))
    with pytest.raises(InputError, match="`fields` must be spins"):
        summarize(xr.DataArray(np.zeros((9, 4, 4)), dims=("sample", "y", "x")))


def test_the_package_is_imported_quickly():
    script = (
        "import sys, skild_physics.data_gen as made; print(sorted(dir(made)), "
        "'numba' in sys.modules, 'xarray' in sys.modules); made.generate_ising"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "['IsingParameters', 'generate', 'generate_ising'] False False\n"


@pytest.mark.parametrize("beta", [0, -0.3])
def test_other_temperatures_by_the_command(tmp_path, beta):
    run(f"generate-ising --L 4 --samples 4000 --beta {beta} --plot a.PNG", tmp_path)
    done = run(f"generate-ising --L 4 --samples 4000 --beta {beta} --json", tmp_path)
    found = json.loads(done.stdout)
    assert found["energy_exact"] == torus_energy(4, beta)
    assert abs(found["energy"] - found["energy_exact"]) < 4.5 * found["energy_stderr"]
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    s = ((np.arange(2**16)[:, None] >> np.arange(16)) & 1).reshape(-1, 4, 4) * 2 - 1
    bonds = (s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).sum((1, 2))
    weight = np.exp(beta * bonds)
    m = np.abs(s.mean((1, 2)))
    exact = [weight @ m**n / weight.sum() for n in (1, 2)]
    assert abs(found["abs_magnetization"] - exact[0]) < 4.5 * found["abs_magnetization_stderr"]
    with generate_ising(4, samples=4000, beta=beta, out=tmp_path / "ising-L4.h5") as fields:
        assert fields.attrs["beta"] == beta
        row = eval_correlators(x=fields).dataset.isel(source=0)
    chi = abs(beta) * 16 * (exact[1] - exact[0] ** 2)
    assert abs(row["susceptibility"] - chi) <= 4.5 * row["susceptibility_stderr"]
    heat = torus_specific_heat(4, beta)
    assert abs(row["specific_heat"] - heat) <= 4.5 * row["specific_heat_stderr"]
    quads = s * np.roll(s, 1, 1) * np.roll(s, 1, 2) * np.roll(np.roll(s, 1, 1), 1, 2)
    pairs = [
        (weight @ (s * np.roll(s, *by)).mean((1, 2)) / weight.sum()) for by in ((1, 1), (1, 2))
    ]
    diagonal = weight @ (s * np.roll(s, (1, 1), (1, 2))).mean((1, 2)) / weight.sum()
    kappa4 = (
        weight @ quads.mean((1, 2)) / weight.sum() - pairs[0] ** 2 - pairs[1] ** 2 - diagonal**2
    )
    assert row["side"].values[0] == 1
    assert abs(row["kappa4"][0] - kappa4) < 4.5 * row["kappa4_stderr"][0]
    if not beta:
        assert abs(kappa4) < 1e-12
        assert (np.abs(row["kappa4"]) < 4.5 * row["kappa4_stderr"]).all()
        assert float(row["susceptibility"]) == float(row["specific_heat"]) == 0
