"""What commands print: tables of any labels and values, JSON, and output that fails."""

import json
import math
import os
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
import torch
import xarray as xr
from rich.console import Console

from skild_physics import progress
from skild_physics.claims import claimed, work_folder
from skild_physics.cli.main import main
from skild_physics.data_gen import IsingParameters, generate, generate_ising
from skild_physics.fields.writing import save, write_fields
from skild_physics.machine import World
from skild_physics.observables.ensemble import summarize
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.pipeline.stages import run_folder
from skild_physics.shards import make_shards
from skild_physics.spectrum import Spectrum


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An ensemble, white noise of as many fields, and pictures."""
    folder = tmp_path_factory.mktemp("answers")
    rng = np.random.default_rng(0)
    generate(folder / "critical.h5", IsingParameters.planned(8, seed=5), 200)
    save(rng.normal(size=(200, 8, 8)).astype(np.float32), folder / "noise.h5")
    pictures = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "held.npz", pictures)
    np.savez(folder / "dark.npz", pictures // 2)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs a command where no file is yet, FOLDER/ standing for the files: exit code and output."""

    def command(*arguments):
        monkeypatch.chdir(tmp_path)
        words = [word.replace("FOLDER", str(folder)) for word in arguments]
        monkeypatch.setattr(sys, "argv", ["skild-physics", *words])
        try:
            main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return command


def test_an_observable_that_one_source_lacks(run):
    """White noise has no decay to take eta from, and no exact value is held against it."""
    sources = ["truth=FOLDER/critical.h5", "noise=FOLDER/noise.h5"]
    code, out, err = run("eval-correlators", *sources, "--beta", repr(BETA_CRITICAL))
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    # the row of the table against exact values
    (eta,) = [row for row in rows if row and row[0] == "eta"]
    assert eta[1] == "(0.250000)"
    assert "(" in eta[2]
    assert eta[4:] == ["", ""]


def test_sides_that_are_given_twice_count_once(run, tmp_path):
    code, _, err = run("eval-correlators", "a=FOLDER/critical.h5", "--sides", "2,1,2")
    assert code == 0, err
    with xr.open_dataset(tmp_path / "correlators.nc", engine="h5netcdf") as data:
        assert data["side"].values.tolist() == [2, 1]
        assert data["kappa4"].shape == (1, 2)


def test_the_raw_fields_of_a_source_hide_no_other_source(run):
    sources = ["a=FOLDER/noise.h5", "a (raw)=FOLDER/critical.h5"]
    code, _, err = run("eval-correlators", *sources)
    assert code == 2
    assert "a as it is goes by 'a (raw)', the label of another source" in err
    code, _, err = run("eval-correlators", *sources, "--binarize", "sign")
    assert code == 0, err


LABELS = ["[b]x[/nope]", ":cat:", "$x_{$", "[/]"]


@pytest.mark.parametrize("label", LABELS)
def test_labels_are_neither_markup_nor_formulas(run, label):
    files = ["--sides", "1", "--overwrite", "--plot", "c.svg"]
    code, out, err = run("eval-correlators", f"{label}=FOLDER/critical.h5", *files)
    assert code == 0, err
    assert label in out
    assert f"measuring {label}" in err
    pictures = [f"{label}=FOLDER/held.npz", f"other {label}=FOLDER/dark.npz"]
    code, out, err = run("eval-images", *pictures, "--metrics", "psnr", "--overwrite")
    assert code == 0, err
    assert f"other {label}" in out


def test_names_of_files_are_neither_markup_nor_formulas(run, folder, tmp_path):
    name = "[nope][b]$x_{$:cat:.h5"
    (tmp_path / name).write_bytes((folder / "noise.h5").read_bytes())
    for sources in ([name], [name, "FOLDER/critical.h5"]):
        code, out, err = run("fit-spectrum", *sources, "--plot", "s.svg", "--overwrite")
        assert code == 0, err
        assert name in out
    assert Spectrum.load(tmp_path / "[nope][b]$x_{$:cat:.spectrum.nc").source == name
    code, _, err = run("generate-ising", "--L", "3", "--samples", "20", "--out", "[/b].h5")
    assert code == 0, err


class Terminal(StringIO):
    """What is written to it, as to a terminal."""

    def isatty(self) -> bool:
        return True


def test_titles_of_progress_bars_are_no_markup(monkeypatch):
    terminal = Console(file=Terminal(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "console", terminal)
    with progress.bar("measure a[/b].h5", 3) as show:
        show(2, "[/c]")
    assert "measure a[/b].h5" in terminal.file.getvalue()
    assert "[/c]" in terminal.file.getvalue()


@pytest.mark.parametrize("updates", ["auto", 1])
@pytest.mark.parametrize("samples", [12, 60, 300])
def test_few_fields_have_honest_errors(samples, updates):
    """Twelve ensembles against Kaufman: errors that neither scatter by much nor deceive.

    Of 16 chains deviations follow Student's t of 15 degrees of freedom, of 12 fields of 11, and a
    little more since energies are skewed: |t| > 5 in 1e-3 of all at most, and their root mean
    square within 0.5 .. 1.9 by about four sigma.
    """
    found = [
        summarize(generate_ising(8, samples=samples, seed=seed, updates=updates))
        for seed in range(12)
    ]
    sigmas = np.array([each.energy_sigma for each in found])
    errors = np.array([each.energy_stderr for each in found])
    assert min(each.n_blocks for each in found) >= 8
    assert errors.max() < 4 * errors.min()
    assert np.abs(sigmas).max() < 5
    assert 0.5 < np.sqrt(np.mean(sigmas**2)) < 1.9


@pytest.mark.parametrize("samples", [1, 7, 8])
def test_an_ensemble_of_few_fields_says_that_it_has_no_errors(run, samples):
    code, out, err = run("generate-ising", "--L", "8", "--samples", str(samples))
    assert code == 0, err
    assert "nan" not in out
    (energy,) = [line for line in out.splitlines() if "energy" in line]
    assert ("sigma" in energy) == ("(" in energy) == (samples == 8)
    assert ("no errors: " in err) == (samples < 8)


def test_few_pictures_are_said_to_have_no_errors(run):
    pictures = ["a=FOLDER/held.npz", "b=FOLDER/dark.npz", "--metrics", "psnr", "--overwrite"]
    for samples, said in ((7, True), (8, False)):
        code, out, err = run("eval-images", *pictures, "--samples", str(samples))
        assert code == 0, err
        assert ("(" in out) != said
        assert ("no error bars from fewer than 8 pictures" in err) == said


def strictly(text):
    """What JSON says, which knows neither NaN nor Infinity."""

    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


def test_correlators_as_json(run):
    code, out, err = run("eval-correlators", "a=FOLDER/critical.h5", "b=FOLDER/noise.h5", "--json")
    assert code == 0, err
    (data,) = strictly(out)
    truth, other, _ = data["data_vars"]["kappa4_residual_chi_square"]["data"]
    assert truth is None
    assert other > 0


def test_a_spectrum_as_json(run, tmp_path):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(7, 8, 8)))
    code, out, err = run("fit-spectrum", "few.npy", "--json")
    assert code == 0, err
    found = strictly(out)
    assert found["fit_alpha_stderr"] is None
    assert found["n_blocks"] == 7


def test_quality_as_json(run):
    metrics = ["--metrics", "psnr,ssim", "--samples", "7"]
    code, out, err = run(
        "eval-images", "a=FOLDER/held.npz", "b=FOLDER/held.npz", *metrics, "--json"
    )
    assert code == 0, err
    psnr, ssim = strictly(out)
    assert (psnr["value"], psnr["stderr"]) == ("inf", None)
    assert (ssim["value"], ssim["stderr"]) == (1.0, None)


def test_an_ensemble_as_json(run):
    code, out, err = run("generate-ising", "--L", "8", "--samples", "1", "--json")
    assert code == 0, err
    found = strictly(out)
    assert found["energy"] < 0
    assert found["energy_stderr"] is found["energy_sigma"] is None


def test_a_dry_run_as_json(run, monkeypatch):
    found = {"parameters": 3, "hours": math.inf, "state_gib": math.nan}
    monkeypatch.setattr("skild_physics.cli.train.dry_run", lambda config, log: found)
    code, out, err = run("train", "ising64", "--dry-run", "--json")
    assert code == 0, err
    assert strictly(out) == {"parameters": 3, "hours": None, "state_gib": None}


def test_files_are_json(tmp_path):
    """Settings of reproduce and of shards, provenance of pictures: numbers it has not are null."""
    odd = {"nan": math.nan, "list": [1.5, math.inf, {"minus": -math.inf}], "tuple": (np.nan, "nan")}
    known = {"nan": None, "list": [1.5, None, {"minus": None}], "tuple": [None, "nan"]}
    with run_folder(tmp_path / "run", odd, (), False, lambda: None):
        pass
    assert strictly((tmp_path / "run" / "settings.json").read_text()) == known
    pictures = [{"field": np.zeros((1, 1, 4, 4), np.float32)}]
    write_fields(tmp_path / "pictures", pictures, 1, odd)
    assert strictly((tmp_path / "pictures" / "provenance.json").read_text()) == known
    write_fields(tmp_path / "pictures.npz", pictures, 1, odd)
    with np.load(tmp_path / "pictures.npz") as archive:
        assert strictly(str(archive["provenance"])) == known
    alone = World(0, 1, torch.device("cpu"))
    made = tmp_path / "made.h5"
    arrays = {"x": np.zeros(2)}
    with claimed(made):
        make_shards(made, odd, 2, 2, lambda *ends: arrays, lambda *all: True, alone, id)
    assert strictly((work_folder(made) / "settings.json").read_text()) == known


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("options", "output"),
    [
        ("generate-ising --L 3 --samples 8 --json", ">&-"),
        ("generate-ising --L 3 --samples 8 --json", ">/dev/full"),
        ("--version", ">/dev/full"),
    ],
)
def test_an_answer_that_cannot_be_written_is_a_failure(tmp_path, options, output, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = shell(f"{options} {output}", tmp_path, environment)
    assert done.returncode == 1
    reason = "standard output is closed" if output == ">&-" else "No space left on device"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert reason in line
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_outputs_that_are_fine(tmp_path):
    """What the caller got wrong stays that; a reader may have enough; a locale may know little."""
    table = "generate-ising --L 3 --samples 8"
    assert shell(f"{table} >&-", tmp_path).returncode == 0
    done = shell(f"{table} --seed -1 >&-", tmp_path)
    assert (done.returncode, "seed" in done.stderr) == (2, True)
    done = shell(f"{table} | head -n 1", tmp_path)
    assert len(done.stdout.splitlines()) == 1
    for word in ("Error", "Exception", "Traceback"):
        assert word not in done.stderr
    done = shell(table, tmp_path, {**os.environ, "LC_ALL": "C", "NO_COLOR": "1"})
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "ising-L3.h5"


def shell(words, folder, environment=None):
    command = ["bash", "-c", f"{sys.executable} -m skild_physics.cli {words}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
