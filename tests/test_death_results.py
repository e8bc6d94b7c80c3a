"""Results and figures: killed at any moment, the same command goes on to the same end."""

import numpy as np
import pytest
import torch
from killat import check
from PIL import Image
from test_import_checkpoint import PUBLISHED_FORM

import skild_physics as sk
from skild_physics.networks import NCSNpp

COMMANDS = {
    "spectrum": "fit-spectrum a.h5 --plot s.pdf --json",
    "spectra": "fit-spectrum a.h5 b.h5 --plot deep/s.svg",
    "correlators": "eval-correlators truth=a.h5 b=b.h5 --block-spins 1 --plot c.png --json",
    "made last": "eval-correlators --out deep/er/c.nc",
    "draws": "eval-draws truth=a.h5 exact=exact.h5 b=b.h5 --json",
    "draws, other": "eval-draws truth=a.h5 exact=exact.h5 --out old.nc --overwrite",
    "images": "eval-images truth=held noisy=noisy --metrics psnr --csv q.csv --out deep/q.nc",
    "checkpoint": "import-checkpoint theirs.pt --config form.toml --out imported",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    for seed, name in enumerate("ba"):
        sk.generate_ising(8, samples=64, seed=seed, out=folder / f"{name}.h5").close()
    coarse = sk.coarse_grain(folder / "a.h5", factor=4)
    sk.sample_exact(coarse, factor=4, draws=2, sweeps=5, out=folder / "exact.h5").close()
    sk.eval_draws(truth=folder / "a.h5", exact=folder / "exact.h5", b=folder / "b.h5").save(
        folder / "old.nc"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    for name, factor in (("held", 1.0), ("noisy", 0.9)):
        (folder / name).mkdir()
        for i, picture in enumerate(pixels):
            Image.fromarray((factor * picture).astype(np.uint8)).save(folder / name / f"{i}.png")
    (folder / "form.toml").write_text(PUBLISHED_FORM)
    torch.manual_seed(0)
    weights = NCSNpp(8, 8, (1, 2), 1, (4,), field_channels=3).state_dict()
    torch.save({"ema": weights, "step": 7}, folder / "theirs.pt")
    return folder


def test_killed_at_some_moments_it_goes_on(template, tmp_path):
    assert check(template, COMMANDS["images"], tmp_path, moments=4) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_it_goes_on(template, tmp_path, name):
    assert check(template, COMMANDS[name], tmp_path) > 5


REPRODUCED = {
    "bundled": ("--L 16 --heldout 8 --steps 1", None),
    # of what takes longer, some moments
    "trained": (
        "--retrain --L 16 --samples 64 --heldout 8 --steps 1 --set training.steps=2 "
        "--set training.batch_size=4 --set training.compile=false",
        24,
    ),
    "photographs": ("photographs --steps 1", 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRODUCED)
def test_reproduce_killed_at_any_moment_goes_on(tmp_path, name):
    (tmp_path / "empty").mkdir()
    options, moments = REPRODUCED[name]
    command = f"reproduce {options} --out runs/x"
    assert check(tmp_path / "empty", command, tmp_path, moments) > 50
