"""The commands, one after another, as a person gives them."""

import json
import re

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from command_line import SHORT, reproduced, run
from PIL import Image

from skild_physics.cli.main import COMMANDS, cli
from skild_physics.fields import open_fields
from skild_physics.kspace import wavenumbers
from skild_physics.spectrum import PowerLaw, Spectrum


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished small reproduce run."""
    return reproduced(tmp_path_factory)


def test_the_bundled_model_reproduces_generates_and_super_resolves(tmp_path):
    """At its own size and, by scale invariance, at others."""
    done = run("reproduce --heldout 8 --steps 12 --out run", tmp_path)
    assert done.stdout.splitlines()[-1] == "run/correlators.png"
    assert not (tmp_path / "run" / "train.h5").exists()
    with xr.open_dataset(tmp_path / "run" / "correlators.nc", engine="h5netcdf") as data:
        assert data["side"].values.tolist() == [1, 2, 4, 8, 16, 32]
        for label in data["source"].values[1:]:
            row = data.sel(source=label)
            # 0.04 for the block averages
            assert abs(float(row["energy"]) + 1.4239) < 0.05 + 4 * float(row["energy_stderr"])
    run("generate bundled --L 128 --samples 1 --steps 12 --out made.h5 --plot made.png", tmp_path)
    with open_fields(tmp_path / "made.h5") as made:
        assert made.shape == (1, 128, 128)
        spins = np.sign(made.values)
        # far from the disordered -0 and the ordered -2
        bonds = (spins * np.roll(spins, 1, axis=1) + spins * np.roll(spins, 1, axis=2)).mean()
        assert bonds == pytest.approx(1.419, abs=0.15)


def test_sampling_in_bfloat16_makes_nearly_the_same_spins(tmp_path):
    """And says so in the file."""
    made = {}
    for precision in ("float32", "bfloat16"):
        options = f"--samples 4 --steps 10 --precision {precision} --out {precision}.h5"
        run(f"generate bundled {options}", tmp_path)
        with open_fields(tmp_path / f"{precision}.h5") as fields:
            made[precision] = fields.values
            assert fields.attrs["precision"] == precision
    assert not np.array_equal(*made.values())
    flipped = np.sign(made["float32"]) != np.sign(made["bfloat16"])
    assert flipped.mean() < 0.01


def test_commands_by_hand(folder):
    """The same pipeline, one command at a time."""
    made = run("generate-ising --L 16 --samples 300 --seed 5 --out a.h5 --plot a.png", folder)
    assert "sigma" in made.stdout
    assert "of 300 fields" in made.stderr
    assert re.search(r"300 made at \d+ fields/s", made.stderr)
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")
    done = run("generate-ising --L 16 --samples 300 --seed 5 --out a.h5 --json", folder)
    assert "nothing left to make" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["made"] == 0
    assert abs(summary["energy_sigma"]) < 5
    run("fit-spectrum a.h5 --plot spectrum.pdf --k-max 60", folder)
    assert (folder / "spectrum.pdf").read_bytes().startswith(b"%PDF")
    fit = json.loads(run("fit-spectrum a.h5 --method paper --overwrite --json", folder).stdout)
    assert fit["fit_method"] == "paper"
    assert fit["fit_alpha_stderr"] > 0
    made = (
        "super-resolve run run/heldout.h5 --factor 2.5 --samples 20 --steps 3 --sampler ancestral"
    )
    run(f"{made} --out sr.h5", folder)
    done = run(
        "eval-correlators truth=run/heldout.h5 skild=sr.h5 --sides 1,3 --plot c.svg --out c.nc",
        folder,
    )
    assert "kappa4(r = 3)" in done.stdout
    assert re.search(r"truth +. skild +. difference", done.stdout)
    assert "against exact" in done.stdout
    assert "<svg" in (folder / "c.svg").read_text()[:1000]
    done = run("eval-correlators truth=run/heldout.h5 --out c2.nc --json", folder)
    (only,) = json.loads(done.stdout)
    assert only["data_vars"]["kappa4"]["dims"] == ["source", "side"]


def test_correlators_without_arguments_show_exact_values(tmp_path):
    """No run to evaluate: a small ensemble against Kaufman and conformal field theory."""
    done = run("eval-correlators --block-spins 2 --clusters", tmp_path)
    assert "making 8192 critical 32 x 32 fields" in done.stderr
    for text in ("-1.433658", "block spins, round 2", "clusters per site", "eta"):
        assert text in done.stdout
    with xr.open_dataset(tmp_path / "correlators.nc", engine="h5netcdf") as data:
        assert data["two_point"].dims == ("source", "distance", "direction")
        assert data["size"].attrs["units"] == "sites"
    with xr.open_dataset(
        tmp_path / "correlators.nc", engine="h5netcdf", group="block_spins_2"
    ) as data:
        assert data.attrs["L"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["correlators.nc"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Real photographs that scikit-image and scikit-learn ship, and two files that are not."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("data") / "photographs"
    folder.mkdir()
    pictures = {"astronaut": data.astronaut(), "coffee": data.coffee(), "cat": data.chelsea()}
    pictures |= {f"sample{i}": image for i, image in enumerate(load_sample_images().images)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)
    (folder / "broken.jpg").write_bytes((folder / "coffee.jpg").read_bytes()[:5000])
    Image.fromarray(data.camera()[:10, :10]).save(folder / "tiny.png")
    return folder


def test_spectrum_of_photographs(photographs, tmp_path):
    """Natural images have a spectrum close to k^-2, and no pure power law fits it exactly."""
    done = run(
        f"fit-spectrum {photographs} --size 64 --tile --k-min 6 --k-max 60 --plot p.png", tmp_path
    )
    assert done.stdout.splitlines()[-1] == "photographs.spectrum.nc"
    assert "skipped tiny.png: 10 x 10 pixels, smaller than 64 x 64" in done.stderr
    assert "skipped broken.jpg" in done.stderr
    assert "2 of 7 files skipped" in done.stderr
    spectrum = Spectrum.load(tmp_path / "photographs.spectrum.nc")
    assert spectrum.channels == ("red", "green", "blue")
    assert spectrum.basis == "cosine"
    assert spectrum.n_blocks == 5
    assert 0.7 < spectrum.fit.law.alpha < 2
    refused = run(f"fit-spectrum {photographs} --size 64 --strict --overwrite", tmp_path, code=2)
    assert "broken.jpg" in refused.stderr
    assert [path.name for path in photographs.parent.iterdir()] == ["photographs"]


def test_several_spectra_in_one_figure(folder, photographs, tmp_path):
    np.save(tmp_path / "stack.npy", np.random.default_rng(0).normal(size=(40, 16, 16)))
    heldout = folder / "run" / "heldout.h5"
    done = run(
        f"fit-spectrum {heldout} stack.npy {photographs} --resize --grey --size 32 --plot o.png "
        "--json",
        tmp_path,
        code=2,
    )
    assert "is for folders" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stack.npy"]
    flat = "--normalization isotropic --k0-squared 100"
    done = run(f"fit-spectrum {heldout} stack.npy {flat} --plot o.png --json", tmp_path)
    first, second = json.loads(done.stdout)
    assert (first["basis"], second["basis"]) == ("periodic", "cosine")
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    # white noise is flat in the isotropic normalisation, not in the paper's
    assert abs(second["fit_alpha"]) < 4 * second["fit_alpha_stderr"]
    assert second["fit_p_value"] > 1e-4
    done = run("fit-spectrum stack.npy --k0-squared 100 --overwrite --json", tmp_path)
    assert json.loads(done.stdout)["fit_p_value"] < 1e-4
    refused = run("fit-spectrum stack.npy stack.npy --overwrite", tmp_path, code=2)
    assert "same file" in refused.stderr


def test_spectrum_of_a_variance_map(tmp_path):
    k = wavenumbers(16, "cosine")
    np.save(tmp_path / "map.npy", PowerLaw(2.0, 2.5, 1.1)(k)[None].repeat(3, axis=0))
    for method in ("paper", "likelihood"):
        done = run(
            f"fit-spectrum map.npy --variance-map --method {method} --json --overwrite", tmp_path
        )
        fit = json.loads(done.stdout)
        assert fit["fit_C"] == pytest.approx(2.0, rel=1e-5)
        assert fit["fit_k0_squared"] == pytest.approx(2.5, rel=1e-5)
        assert fit["fit_alpha"] == pytest.approx(1.1, rel=1e-5)
        assert fit["fit_alpha_stderr"] is None
    done = run("fit-spectrum map.npy --variance-map --n-samples 1000 --json --overwrite", tmp_path)
    assert 0 < json.loads(done.stdout)["fit_alpha_stderr"] < 0.1


def test_from_real_coarse_lattices(folder, tmp_path):
    """Block averages to lattices of the model's size and of twice that, consistent with them."""
    heldout = folder / "run" / "heldout.h5"
    for kind in ("box", "gaussian"):
        options = f"--samples 8 --out c.h5 --overwrite --downsampling {kind}"
        run(f"coarse-grain {heldout} --factor 2 {options}", tmp_path)
        options = "--protocol observed --steps 4 --out o.h5 --overwrite"
        done = run(f"super-resolve {folder / 'run'} c.h5 --factor 2 {options}", tmp_path)
        assert "coarse-graining the result again differs" in done.stderr
        with open_fields(tmp_path / "o.h5") as made, open_fields(tmp_path / "c.h5") as coarse:
            assert made.shape == (8, 16, 16)
            assert made.attrs["consistency_residual"] < 1e-5
            assert made.attrs["downsampling_of_input"] == kind
            if kind == "box":
                blocks = made.values.reshape(8, 8, 2, 8, 2).mean((2, 4))
                np.testing.assert_allclose(blocks, coarse.values, atol=1e-5)
    run(f"super-resolve {folder / 'run'} c.h5 --factor 4 {options}", tmp_path)
    with open_fields(tmp_path / "o.h5") as made:
        assert made.shape == (8, 32, 32)
    refused = run(f"super-resolve {folder / 'run'} {heldout} --factor 2 {options}", tmp_path, 2)
    assert "pass --downsampling" in refused.stderr


def test_generation(folder, tmp_path):
    """A schedule that ends below one pixel; another one is refused."""
    config = (folder / "run" / "config.toml").read_text()
    for name in ("train.h5", "spectrum.nc"):
        config = config.replace(f'"{name}"', f'"{folder / "run" / name}"')
    (tmp_path / "config.toml").write_text(config)
    above = "--set process.schedule.resolution=2.0 --set process.k_c=0.0 --set training.steps=1"
    run(f"train config.toml {SHORT} {above} --set out=above", tmp_path)
    refused = run("generate above --out g.h5", tmp_path, code=2)
    assert "something left to start from" in refused.stderr
    live = "--set training.snr_threshold=0.1 --set training.active_multiple=8"
    run(f"train config.toml {SHORT} {live}", tmp_path)
    run("generate . --samples 5 --steps 6 --sampler stochastic --out g.h5", tmp_path)
    with open_fields(tmp_path / "g.h5") as made:
        assert made.shape == (5, 16, 16)
        assert np.isfinite(made.values).all()
        assert made.attrs["protocol"] == "generation"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example(name):
    shown = CliRunner().invoke(cli, [name, "--help"]).output
    assert re.search(rf"\n  Example:\n +skild-physics {name}", shown)
    assert CliRunner().invoke(cli, [name, "-h"]).output == shown


def test_help_names_every_command():
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert all(name in shown for name in COMMANDS)
