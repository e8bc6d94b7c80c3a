"""The models that a run keeps are measured one after another, with metrics that need no weights."""

import sys

import numpy as np
import xarray as xr
from click.testing import CliRunner
from command_line import ROOT
from test_import_checkpoint import PUBLISHED_FORM

import skild_physics as sk


def test_every_kept_model_is_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "paper_figures")
    monkeypatch.chdir(tmp_path)
    import over_training  # a script

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pictures.npz", rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    form = PUBLISHED_FORM.replace('source = "cifar10"', 'source = "pictures.npz"\nheldout = 8')
    quick = """
    steps = 5
    batch_size = 4
    keep_every = 2
    compile = false
    threads = 1
    precision = "float32"
    """
    (tmp_path / "run.toml").write_text(form.replace('"eps"', '"v"') + quick)
    sk.train("run.toml", out="run")
    assert len(list((tmp_path / "run" / "kept").iterdir())) == 2

    words = "run pictures.npz --metrics psnr --samples 9 --choose-seed 1 --factor 2 --steps 2"
    done = CliRunner().invoke(over_training.main, [*words.split(), "--out", "q.nc"])
    assert done.exit_code == 0, done.output
    with xr.open_dataset("q.nc", engine="h5netcdf") as results:
        assert results["step"].values.tolist() == [2, 4, 5]
        assert (results["psnr_stderr"] > 0).all()
        # each as eval-images says it
        truth = sk.open("pictures.npz", samples=9, choose_seed=1)
        for step, name in ((4, "run/kept/0000004.safetensors"), (5, "run")):
            made = sk.load(name).reconstruct(truth, 2, sampler=sk.Multistep(2))
            by_hand = sk.eval_images(truth=truth, made=made, metrics=["psnr"])
            expected = float(by_hand.dataset["psnr_mean"].sel(source="made"))
            np.testing.assert_allclose(results["psnr"].sel(step=step), expected, rtol=1e-5)
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
    # again, it takes what is there
    before = (tmp_path / "q" / "0000002.h5").stat().st_mtime_ns
    assert CliRunner().invoke(over_training.main, [*words.split(), "--out", "q.nc"]).exit_code == 0
    assert (tmp_path / "q" / "0000002.h5").stat().st_mtime_ns == before
    del sys.modules["over_training"]
