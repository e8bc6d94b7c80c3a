"""Which sources an evaluation is of, and what they are called."""

import os

import click
import numpy as np
import pytest
import xarray as xr
from command_line import run
from field_files import write_ensemble

import skild_physics as sk
from skild_physics.cli.inputs import labelled

SMALL = "--binarize sign --sides 1"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(path, L=8, seed=0):
    spins = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (20, L, L))
    return write_ensemble(path, spins)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["truth=a.h5"], {"truth": "a.h5"}),
        (["a.h5", "b.npz"], {"a": "a.h5", "b": "b.npz"}),
        (["runs/a.b.h5", "x=runs/a.b.h5"], {"a.b": "runs/a.b.h5", "x": "runs/a.b.h5"}),
        (["cifar10", "photographs-test"], {s: s for s in ("cifar10", "photographs-test")}),
        (["v1.5", "./", "v2/"], {"v1.5": "v1.5", "lattices": "./", "v2": "v2/"}),
        (["runs/L=8/a.h5"], {"a": "runs/L=8/a.h5"}),
        (["x=runs/L=8/a.h5"], {"x": "runs/L=8/a.h5"}),
        (["[b]x[/b]=a.h5"], {"[b]x[/b]": "a.h5"}),
        (["missing/L=8/a.h5"], {"a": "missing/L=8/a.h5"}),
        (["a.h5:field"], {"a": "a.h5:field"}),
        (["a.h5:g/one", "a.h5:g/two"], {"a:one": "a.h5:g/one", "a:two": "a.h5:g/two"}),
        (["t=a.h5:one"], {"t": "a.h5:one"}),
        (["odd:.h5"], {"odd:": "odd:.h5"}),
    ],
)
def test_labels_are_the_names_of_files_unless_they_are_given(here, monkeypatch, given, found):
    folder = here / "lattices"
    for name in ("runs/L=8", "v1.5", "v2"):
        (folder / name).mkdir(parents=True)
    for name in ("a.h5", "runs/L=8/a.h5", "odd:.h5"):
        (folder / name).touch()
    monkeypatch.chdir(folder)
    assert labelled(given, "FILE") == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a.h5", "b/a.h5"], "two sources go by 'a': give them labels, as in LABEL=b/a.h5"),
        (["a=b.h5", "a.h5"], "two sources go by 'a'"),
        (["a=b.h5", "a=c.h5"], "label 'a' is given twice"),
        (["=b.h5"], "expected FILE or LABEL=FILE"),
        (["b="], "expected FILE or LABEL=FILE"),
        ([""], "expected FILE or LABEL=FILE"),
    ],
)
def test_labels_that_are_none(given, message):
    with pytest.raises(click.BadParameter, match=message):
        labelled(given, "FILE")


def test_files_need_no_labels(here):
    held(here / "held.h5")
    held(here / "MADE.H5", seed=1)
    done = run(f"eval-correlators held.h5 MADE.H5 {SMALL} --plot c.PDF --out labelled.nc", here)
    assert "MADE" in done.stdout
    assert (here / "c.PDF").read_bytes().startswith(b"%PDF")
    with xr.open_dataset(here / "labelled.nc", engine="h5netcdf") as data:
        assert data["source"].values.tolist() == ["held", "MADE"]
    for name, shift in (("one", 0), ("two", 60)):
        pictures = np.random.default_rng(0).integers(0, 190, (9, 16, 16), dtype=np.uint8)
        np.save(here / f"{name}.npy", pictures + np.uint8(shift))
    done = run("eval-images one.npy two.npy --metrics psnr", here)
    assert "two" in done.stdout


def test_alone_it_evaluates_what_was_made_last(here):
    """Of ensembles and a run of reproduce the newest, but nothing else that lies there."""

    def evaluated(*said):
        (here / "correlators.nc").unlink(missing_ok=True)
        done = run(f"eval-correlators {SMALL}", here)
        for each in said:
            assert each in done.stderr
        with xr.open_dataset(here / "correlators.nc", engine="h5netcdf") as data:
            return data["source"].values.tolist(), data.attrs["L"]

    sk.generate_ising(16, samples=40, beta=0.3, out=here / "first.h5").close()
    run("generate-ising --L 12 --samples 40", here)
    for name, age in (("first.h5", 60), ("ising-L12.h5", 30)):
        stamp = os.stat(here / name).st_mtime - age
        os.utime(here / name, (stamp, stamp))
    # newer, but no ensembles
    sk.save(np.zeros((9, 8, 8)), here / "fields.h5")
    (here / "text.h5").write_text("none")
    assert evaluated("ising-L12.h5: what was made last here") == (["ising-L12"], 12)
    os.utime(here / "first.h5")
    assert evaluated("first.h5: what was made last here") == (["first"], 16)
    (here / "runs" / "ising").mkdir(parents=True)
    held(here / "runs" / "ising" / "heldout.h5")
    super_resolved = held(here / "runs" / "ising" / "super_resolved.h5", seed=1)
    assert evaluated("runs/ising: what was made last here") == (["truth", "SKILD"], 8)
    stamp = os.stat(super_resolved).st_mtime - 90
    os.utime(super_resolved, (stamp, stamp))
    assert evaluated("first.h5: what was made last here") == (["first"], 16)
