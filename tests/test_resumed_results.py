"""Results that are there already, and figures of them; what may not be written is refused first."""

import json

import numpy as np
import pytest
import small_runs
from command_line import run

import skild_physics as sk
from skild_physics.claims import claimed, filling
from skild_physics.files import InputError
from skild_physics.pipeline.stages import run_folder
from skild_physics.plots import Figure, save_figure


def some_fields(seed, count=64):
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (count, 8, 8))


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("ab"):
        sk.save(some_fields(seed), tmp_path / f"{name}.h5")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fit-spectrum a.h5 b.h5 --json --plot", "b.spectrum.nc"),
        ("eval-correlators a.h5 b.h5 --json --plot", "correlators.nc"),
    ],
)
def test_the_same_command_makes_what_is_missing(folder, command, name):
    """It prints the same; neither another result nor another figure is replaced."""
    first = run(f"{command} drawn.svg", folder)
    out, plot = folder / name, folder / "drawn.svg"
    made, drawn = out.read_bytes(), plot.read_bytes()
    for missing in (None, plot, out):
        if missing is out:
            plot.unlink()
        if missing:
            missing.unlink()
        again = run(f"{command} drawn.svg", folder)
        assert again.stdout == first.stdout
        assert (f"{out.name}: made already" in again.stderr) == (missing is not out)
        assert plot.read_bytes() == drawn
    out.write_bytes(made)
    plot.write_text("another")
    assert "drawn.svg: exists already" in run(f"{command} drawn.svg", folder, 2).stderr
    plot.unlink()
    # of other fields
    for seed, name in enumerate("ab", start=5):
        sk.save(some_fields(seed), folder / f"{name}.h5", overwrite=True)
    refused = run(f"{command} drawn.svg", folder, 2)
    assert "exists already; pass --overwrite" in refused.stderr
    assert not plot.exists()
    assert out.read_bytes() == made
    run(f"{command} drawn.svg --overwrite", folder)
    assert out.read_bytes() != made


def test_a_figure_before_its_result_is_another_one(folder):
    """And nothing is measured for it."""
    (folder / "drawn.png").write_text("mine")
    before = names(folder)
    refused = run("fit-spectrum a.h5 --plot drawn.png", folder, 2)
    assert refused.stderr.count("\n") == 1
    assert "drawn.png: exists already" in refused.stderr
    assert names(folder) == before


def test_options_are_part_of_what_is_asked_for(folder):
    out = folder / "s.nc"
    first = sk.fit_spectrum(folder / "a.h5", out=out, k_min=np.float64(6))
    assert sk.fit_spectrum(some_fields(0), out=folder / "t.nc", basis="periodic").n_samples == 64
    again = sk.fit_spectrum(folder / "a.h5", out=out, k_min=6)
    np.testing.assert_array_equal(again.S, first.S)
    for other in ({"k_min": 7}, {"method": "paper"}, {"momentum": "lattice"}):
        with pytest.raises(InputError, match="`overwrite=True`"):
            sk.fit_spectrum(folder / "a.h5", out=out, **{"k_min": 6, **other})
    found = sk.eval_correlators(a=folder / "a.h5", out=folder / "c.nc")
    again = sk.eval_correlators(a=folder / "a.h5", out=folder / "c.nc")
    assert again.dataset.drop_attrs().identical(found.dataset.drop_attrs())
    assert again.plot() is not None
    for other in ({"sides": [1]}, {"clusters": True}, {"boundary": "open"}, {"beta": 0.4}):
        with pytest.raises(InputError, match="`overwrite=True`"):
            sk.eval_correlators(a=folder / "a.h5", out=folder / "c.nc", **other)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".svgz", ".eps", ".ps", ".jpg"])
def test_the_same_figure_is_the_same_bytes(tmp_path, suffix, monkeypatch):
    """Whenever it is drawn."""
    for time, name in enumerate(("one", "two")):
        monkeypatch.setattr("time.time", lambda time=time: 1e9 + 1e6 * time)
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([1, 3, 2], label="x")
        save_figure(figure, tmp_path / name / f"drawn{suffix}")
    one, two = ((tmp_path / name / f"drawn{suffix}").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit-spectrum a.h5 missing.h5", "missing.h5: no such file"),
        ("fit-spectrum a.h5 constant.npy --plot new/s.png", "is the data constant?"),
        ("fit-spectrum missing.h5 --out new/er/s.nc", "missing.h5: no such file"),
        ("eval-correlators a.h5 missing.h5 --out new/c.nc --plot new/c.png", "no such file"),
        ("eval-images a=missing --out new/q.nc --csv new/er/q.csv", "no such file"),
        ("import-checkpoint missing.pt --config cifar10-linear --out new", "no such file"),
        ("reproduce --L 2 --out new/er", "--L must be at least 3, got 2"),
        ("reproduce --L 66 --out new/er", "the network takes multiples of 4"),
        ("reproduce --heldout 1 --out new", "--heldout must be at least 2, got 1"),
        ("reproduce --steps 0 --out new", "--steps must be at least 1, got 0"),
        ("reproduce --factor 1000 --out new", "--factor must be at most"),
        ("reproduce --retrain --set training.steps=none --out new", "training.steps"),
        ("reproduce --retrain --L 30 --set network.patch=4 --out new", "30"),
        ("reproduce --retrain --samples 1 --out new", "--samples must be at least 2, got 1"),
        ("reproduce photographs --steps 0 --out new", "--steps must be at least 1, got 0"),
        ("reproduce photographs --retrain --set nonsense.x=1 --out new", "nonsense"),
    ],
)
def test_a_command_that_fails_leaves_nothing(folder, command, message):
    np.save(folder / "constant.npy", np.ones((20, 8, 8)))
    before = names(folder)
    line = run(command, folder, 2).stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert names(folder) == before


# folders of runs

SETTINGS = {"case": "ising", "L": 8}


def enter(out, settings=SETTINGS, made=("made.h5",), overwrite=False):
    with run_folder(out, settings, made, overwrite, lambda: None):
        return names(out)


def test_a_run_that_is_discarded_leaves_nothing_but_what_is_not_its_own(tmp_path):
    out = tmp_path / "run"
    assert enter(out) == ["settings.json"]
    assert names(tmp_path) == ["run"]
    (out / "made.h5").touch()
    (out / "samples").mkdir()
    (out / "samples" / "0000010.png").touch()
    assert "made.h5" in enter(out)
    other = {**SETTINGS, "L": 16}
    with pytest.raises(InputError, match="holds a run of other settings"):
        enter(out, other)
    for thesis in (out / "thesis.tex", out / "samples" / "mine.png"):
        thesis.touch()
        with pytest.raises(InputError, match=f"or move {thesis.relative_to(out).parts[0]}"):
            enter(out, other, overwrite=True)
        assert (out / "made.h5").exists()
        thesis.unlink()
    assert enter(out, other, overwrite=True) == ["settings.json"]
    assert json.loads((out / "settings.json").read_text()) == other


def test_two_processes_do_not_run_in_one_folder(tmp_path):
    with claimed(tmp_path / "run"):
        command = ("reproduce", "--heldout", "8", "--out", tmp_path / "run")
        code, _, error = small_runs.start(tmp_path, *command).end()
    assert code == 2, error
    assert "another process is writing it" in error
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_claimed_before_a_death_is_taken(tmp_path):
    """Its settings were not written yet."""
    out = tmp_path / "run"
    with claimed(out / "settings.json") as work:
        (work / "tmp-settings.json").touch()
        (work / "shard").touch()
    assert names(out) == [".settings.json.skild-physics"]
    assert enter(out) == ["settings.json"]


def test_a_run_whose_training_died_is_discarded(tmp_path):
    out = tmp_path / "run"
    enter(out)
    with filling(out) as work:
        (work / "kept").touch()
    (work / "kept").rename(work / "tmp-state.pt")
    assert enter(out, {**SETTINGS, "L": 16}, overwrite=True) == ["settings.json"]


# disks and messages


@pytest.mark.parametrize(
    "command",
    [
        ("fit-spectrum", "a.h5", "--out", "x.nc"),
        ("eval-correlators", "a.h5", "--out", "x.nc"),
        ("fit-spectrum", "a.h5", "--out", "b.nc", "--overwrite"),
    ],
)
def test_a_full_disk_is_one_line(folder, command, monkeypatch):
    """No crash; the old file stays, and no temporary."""
    sk.fit_spectrum(folder / "a.h5", out=folder / "b.nc", k_min=7)
    texts = folder / "texts"
    texts.mkdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.chdir(folder)
    code, _, error = small_runs.start(texts, *command, file_limit=4096).end()
    assert code == 1, error
    assert error.splitlines()[-1].startswith("Error: ")
    assert "cannot be written (File too large)" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert names(folder) == sorted([*before, "texts"])


def test_a_long_message_is_cut(folder):
    """What was given may be of any length."""
    refused = run(f"fit-spectrum a.h5 --basis {'x' * 5000}", folder, 2)
    (line,) = refused.stderr.splitlines()
    assert len(line) < 450
    assert line.startswith("Error: ")
