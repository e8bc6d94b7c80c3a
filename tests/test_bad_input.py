"""Bad input is one line and an exit code, and harms nothing."""

import shlex
import sys

import h5py
import numpy as np
import pytest
from command_line import reproduced, run, run_script
from PIL import Image

from skild_physics.cli.main import main

BAD = [
    ("generate-ising --L 2", "--L must be at least 3"),
    ("generate-ising", "--L"),
    ("generate-ising --L 8 --beta hot", "hot"),
    ("generate-ising --L 7 --beta -1", "--L must be even for a negative --beta, got 7"),
    ("generate-ising --L 8 --beta nan", "beta"),
    ("generate-ising --L 8 --samples 0", "samples"),
    ("generate-ising --L 8 --updates none", "none"),
    ("generate-ising --L 16 --samples 10 --out run/train.h5 --seed 9", "pass --overwrite"),
    ("generate-ising --L 16 --samples 10 --out run/spectrum.nc", "run/spectrum.nc"),
    ("generate-ising --L 8 --out /proc/nowhere/x.h5", "/proc/nowhere"),
    ("fit-spectrum missing.h5", "missing.h5: no such file"),
    ("fit-spectrum foreign.h5", "foreign.h5"),
    ("fit-spectrum text.h5", "text.h5"),
    ("fit-spectrum run/heldout.h5 --out run/spectrum.nc", "run/spectrum.nc: exists already"),
    ("fit-spectrum run/train.h5 --out /proc/nowhere/x.nc", "cannot make"),
    ("fit-spectrum run/train.h5 --out x.nc --plot x.xyz", ".xyz"),
    ("fit-spectrum run/train.h5 --out x.nc --k-min 1000", "shells"),
    ("fit-spectrum run/train.h5 --basis sine", "sine"),
    ("fit-spectrum run/train.h5 run/heldout.h5 --out x.nc", "2 sources"),
    ("fit-spectrum run/train.h5 --tile", "--tile is for folders"),
    ("fit-spectrum run/train.h5 --n-samples 5", "--n-samples goes with --variance-map"),
    ("fit-spectrum run/train.h5 --k0-squared -1", "--k0-squared"),
    ("fit-spectrum run/train.h5 --k0-squared 1 --method paper", "paper"),
    ("fit-spectrum empty", "empty: no pictures"),
    ("fit-spectrum pictures --size 64", "smaller than 64 x 64"),
    ("fit-spectrum pictures --size 8 --tile", "is the data constant"),
    ("fit-spectrum pictures --size 0", "--size must be at least 1"),
    ("fit-spectrum nan.npy --variance-map", "nan.npy: a variance map has no nan"),
    ("fit-spectrum nanstack.npy", "nan"),
    ("fit-spectrum wrong.npy", "wrong.npy: shape (5, 4, 3)"),
    ("fit-spectrum truncated.npy", "truncated.npy"),
    ("fit-spectrum cifar10 --data-dir archive", "not the published archive"),
    ("train missing.toml", "missing.toml: no such file"),
    ("train run/config.toml --set training.stepz=1", "no key 'stepz'"),
    ("train run/config.toml --set training.steps=20", "another configuration"),
    ("super-resolve run run/heldout.h5 --factor 0.5 --out x.h5", "factor must be at least 1"),
    ("super-resolve run run/heldout.h5 --factor nan --out x.h5", "factor must be at least 1"),
    ("super-resolve run run/heldout.h5 --factor 64 --out x.h5", "factor must be at most 32"),
    ("super-resolve bundled odd.h5 --factor 2 --out x.h5", "would be 9 wide"),
    ("super-resolve run missing.h5 --factor 2 --out x.h5", "missing.h5: no such file"),
    ("super-resolve nowhere run/heldout.h5 --factor 2 --out x.h5", "nowhere: no such file"),
    ("super-resolve text.h5 run/heldout.h5 --factor 2 --out x.h5", "text.h5: not a readable"),
    ("super-resolve run run/heldout.h5 --factor 2 --out run/train.h5", "exists already"),
    ("super-resolve run run/heldout.h5 --factor 2 --samples 0 --out x.h5", "samples"),
    ("super-resolve run run/heldout.h5 --factor 2 --steps 0 --out x.h5", "steps"),
    ("super-resolve run run/heldout.h5 --factor 2 --order 4 --out x.h5", "--order"),
    ("super-resolve run run/heldout.h5 --factor 2 --batch-size 0 --out x.h5", "--batch-size"),
    ("super-resolve run run/heldout.h5 --factor 2 --last-snr -1 --out x.h5", "--last-snr"),
    (
        "super-resolve run run/heldout.h5 --factor 1.3 --protocol observed --downsampling box "
        "--out x.h5",
        "would be 20.8 wide",
    ),
    ("coarse-grain run/heldout.h5 --factor 3 --out x.h5", "whole pixels, got 3"),
    ("coarse-grain run/heldout.h5 --factor 0.5 --out x.h5", "whole pixels"),
    ("coarse-grain run/heldout.h5 --factor 2 --downsampling nearest --out x.h5", "nearest"),
    ("coarse-grain missing.h5 --factor 2 --out x.h5", "missing.h5: no such file"),
    ("generate run --samples 0 --out x.h5", "samples must be at least 1"),
    ("generate bundled --L 66 --out x.h5", "multiples of 4, got 66"),
    ("generate bundled --L 32 --out x.h5", "not from 64 to 32"),
    ("super-resolve nowhere run/heldout.h5 --factor 2 --out x.h5", "nowhere: no such file"),
    ("super-resolve bundled run/heldout.h5 --factor 200 --out x.h5", "factor must be at most"),
    ("super-resolve bundled run/heldout.h5 --protocol rescaled --factor 1.1 --out x.h5", "wide"),
    ("eval-correlators run/heldout.h5 run/heldout.h5", "two sources go by 'heldout'"),
    ("eval-correlators =run/heldout.h5", "LABEL=FILE"),
    ("eval-correlators a=", "LABEL=FILE"),
    ("eval-correlators a=run/heldout.h5 --block-spins 4 --out x.nc", "halved 4 times"),
    ("eval-correlators a=run/heldout.h5 a=run/heldout.h5", "given twice"),
    ("eval-correlators a=run/heldout.h5 b=small.h5 --out x.nc", "b has 8 x 8"),
    ("eval-correlators a=run/heldout.h5 --sides 9 --out x.nc", "sides must lie in"),
    ("eval-correlators a=run/heldout.h5 --sides one --out x.nc", "integers"),
    ("eval-correlators a=run/spectrum.nc --out x.nc", "run/spectrum.nc"),
    ("reproduce potts", "potts"),
    ("reproduce --out .", "not empty"),
    ("reproduce --set training.steps=3", "--set goes with --retrain"),
    ("frobnicate", "frobnicate"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished small reproduce run."""
    return reproduced(tmp_path_factory)


@pytest.fixture(scope="module")
def crowded(folder):
    """The same folder with other files that commands must refuse and leave alone."""
    run("generate-ising --L 8 --samples 20 --out small.h5", folder)
    run("generate-ising --L 9 --samples 4 --out odd.h5", folder)
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = 1
    (folder / "text.h5").write_text("not HDF5")
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "pictures" / f"{i}.png")
    np.save(folder / "nan.npy", np.full((3, 8, 8), np.nan))
    np.save(folder / "nanstack.npy", np.full((10, 8, 8), np.nan))
    np.save(folder / "wrong.npy", np.ones((5, 4, 3)))
    whole = (folder / "nanstack.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "archive").mkdir()
    (folder / "archive" / "cifar-10-binary.tar.gz").write_bytes(b"half a download")
    return folder


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_harms_nothing(crowded, monkeypatch, capsys, arguments, message):
    def snapshot():
        return {p: p.read_bytes() for p in crowded.rglob("*") if p.is_file()}

    before = snapshot()
    monkeypatch.chdir(crowded)
    monkeypatch.setattr(sys, "argv", ["skild-physics", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert snapshot() == before


def test_bad_input_has_no_traceback(crowded):
    """The same through the installed script."""
    done = run_script("eval-correlators a=text.h5 --out never.nc", crowded, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert not (crowded / "never.nc").exists()
