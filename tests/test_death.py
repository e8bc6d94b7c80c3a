"""Killed before any change of the file system, the same command goes on to the same content."""

import re

import numpy as np
import pytest
import torch
from command_line import run
from killat import check
from PIL import Image
from small_runs import make_inputs, run_values, to_toml

import skild_physics as sk
from skild_physics.data_gen import one_by_one, store
from skild_physics.fields import prepare
from skild_physics.models import making

QUICK = "--batch-size 3 --steps 1"
COMMANDS = {
    "generate-ising": "generate-ising --L 16 --samples 200 --seed 3 --workers 1 --out made.h5",
    "generate-ising, longer": "generate-ising --L 16 --samples 700 --workers 1 --out old.h5",
    "generate-ising, other": "generate-ising --L 16 --samples 40 --seed 5 --workers 1 --out old.h5 "
    "--overwrite",
    "generate": f"generate bundled --samples 4 {QUICK} --out a/b/made.h5",
    "generate, npz": f"generate bundled --samples 4 {QUICK} --out made.npz",
    "generate, png": f"generate bundled --samples 4 {QUICK} --out made --overwrite",
    "generate, figure": f"generate bundled --samples 2 {QUICK} --out made.h5 --plot made.png",
    "paired": f"super-resolve bundled old64.h5 --factor 4 {QUICK} --out made.h5 --start-out s.npy",
    "paired, npz": f"super-resolve bundled old64.h5 --factor 4 {QUICK} --out m.npz "
    "--start-out s.npy",
    "observed": "super-resolve bundled coarse.h5 --protocol observed --factor 4 "
    f"{QUICK} --out made.h5 --start-out s.npy",
    "rescaled": "super-resolve bundled old64.h5 --protocol rescaled --factor 2 --samples 1 "
    f"{QUICK} --out made --start-out s.npy --overwrite",
    "coarse-grain": "coarse-grain old64.h5 --factor 4 --out made.h5",
    "coarse-grain, png": "coarse-grain old64.h5 --factor 4 --out made --overwrite",
    "sample-exact": "sample-exact coarse.h5 --factor 4 --draws 3 --workers 1 --out deep/made.h5",
    "sample-exact, npz": "sample-exact coarse.h5 --factor 4 --sweeps 3 --workers 1 --out made.npz",
    "sample-exact, other": "sample-exact coarse.h5 --factor 4 --seed 2 --sweeps 3 --workers 1 "
    "--out old64.h5 --overwrite",
    "relax": "relax old64.h5 --sweeps 2 --workers 1 --out deep/made.h5",
    "relax, png": "relax old64.h5 --sweeps 2 --factor 4 --workers 1 --out made --overwrite",
    "interpolate": "interpolate coarse.h5 --factor 2 --out made.npz",
    "prepare-images": "prepare-images pictures --out made.h5",
    "import-fields": "import-fields spins.npy --model ising --beta 0.4 --out made.h5",
    "train": "train run.toml",
    "train, other": "train run.toml --set out=old-run --set training.seed=2 --overwrite",
}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A folder with inputs of every command, and older results that some replace."""
    folder = tmp_path_factory.mktemp("before")
    sk.generate_ising(16, samples=100, workers=1, out=folder / "old.h5").close()
    sk.generate_ising(64, samples=4, workers=1, seed=2, out=folder / "old64.h5").close()
    sk.coarse_grain(folder / "old64.h5", factor=4, out=folder / "coarse.h5").close()
    sk.save(np.zeros((3, 16, 16)), folder / "made").close()
    np.save(folder / "spins.npy", np.random.default_rng(0).choice([-1, 1], (6, 8, 8)))
    (folder / "pictures").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    make_inputs(folder)
    values = run_values(folder, "run", steps=6, checkpoint_every=3, evaluate_every=3)
    (folder / "run.toml").write_text(to_toml(values))
    run("train run.toml --set out=old-run", folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One thread, which is all that a fork can use, and several shards of everything."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(store, "SHARD_BYTES", 128 * 16**2)
    monkeypatch.setattr(one_by_one, "SHARD_SITES", 3 * 64**2)
    monkeypatch.setattr(making, "SHARD_FIELDS", 3)
    monkeypatch.setattr(prepare, "SHARD", 3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_moment(name, before, tmp_path):
    moments = check(before, COMMANDS[name], tmp_path, say=_untimed, fork=True)
    print(f"{name}: {moments} moments")
    assert moments > 5


@pytest.mark.parametrize("name", ["generate-ising, longer", "paired", "coarse-grain, png", "train"])
def test_killed_at_some_moments(name, before, tmp_path):
    assert check(before, COMMANDS[name], tmp_path, moments=4, say=_untimed, fork=True) > 5


def _untimed(said):
    return re.sub(r"\d+ fields/s", "", said)
