"""The command line, end to end, as a person meets it."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from scipy.fft import dctn
from small_runs import needs_muon

from skild_physics.cli.main import COMMANDS, main
from skild_physics.cli.reproduce_photographs import quality_table
from skild_physics.fields import load_fields
from skild_physics.kspace import inverse, wavenumbers
from skild_physics.networks import NCSNpp
from skild_physics.spectrum import PowerLaw, Spectrum
from skild_physics.tables import with_error
from skild_physics.training.checkpoint import load_model

ROOT = Path(__file__).parents[1]
SKILD = str(Path(sys.executable).with_name("skild-physics"))
SMALL = "--retrain --L 16 --samples 400 --heldout 64 --steps 5 --factor 4"
SHORT = (
    "--set training.steps=20 --set training.compile=false --set training.checkpoint_every=10 "
    "--set network.channels=[16] --set network.blocks=[1] "
    f"--set training.optimizer={'muon' if hasattr(torch.optim, 'Muon') else 'adamw'}"
)


def run(arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SKILD, *shlex.split(arguments)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished small reproduce run."""
    folder = tmp_path_factory.mktemp("cli")
    done = run(f"reproduce ising {SMALL} {SHORT} --out run", folder)
    assert done.stdout.splitlines()[-1] == "run/correlators.png"
    return folder


def test_reproduce_makes_everything(folder):
    out = folder / "run"
    assert (out / "correlators.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(out / "correlators.nc", engine="h5netcdf") as data:
        assert data["source"].values.tolist() == [
            "truth",
            "SKILD",
            "from block averages",
            "from nothing",
        ]
        assert data["side"].values.tolist() == [1, 2, 4, 8]
        assert data["side"].attrs["units"] == "lattice spacing"
        assert float(data["kappa4_stderr"].min()) > 0
        assert np.isfinite(data["kappa4_residual"]).all()
        assert np.isfinite(data["kappa4_residual_p_value"][1:]).all()
    with xr.open_dataset(out / "super_resolved.h5", engine="h5netcdf") as data:
        assert data["field"].shape == data["start"].shape == (64, 16, 16)
        assert data.attrs["protocol"] == "paired"
    with xr.open_dataset(out / "from_blocks.h5", engine="h5netcdf") as data:
        assert data.attrs["consistency_residual"] < 1e-5
    with xr.open_dataset(out / "generated.h5", engine="h5netcdf") as data:
        assert data["field"].shape == (64, 16, 16)


def test_reproduce_again_skips_what_is_done(folder):
    made = ["train.h5", "heldout.h5", "spectrum.nc", "model.safetensors", "super_resolved.h5"]
    made += ["coarse.h5", "from_blocks.h5", "generated.h5"]
    before = {name: (folder / "run" / name).stat().st_mtime_ns for name in made}
    done = run(f"reproduce ising {SMALL} {SHORT} --out run", folder)
    assert "trained already" in done.stderr
    assert {name: (folder / "run" / name).stat().st_mtime_ns for name in made} == before
    refused = run(f"reproduce ising {SMALL} --out run", folder, code=2)
    assert "other settings" in refused.stderr


def test_the_bundled_model_reproduces_generates_and_super_resolves(tmp_path):
    """At its own size and, by scale invariance, at others."""
    done = run("reproduce --heldout 24 --steps 12 --out run", tmp_path)
    assert done.stdout.splitlines()[-1] == "run/correlators.png"
    assert not (tmp_path / "run" / "train.h5").exists()
    with xr.open_dataset(tmp_path / "run" / "correlators.nc", engine="h5netcdf") as data:
        assert data["side"].values.tolist() == [1, 2, 4, 8, 16, 32]
        for label in data["source"].values[1:]:
            row = data.sel(source=label)
            # 0.04 for the block averages
            assert abs(float(row["energy"]) + 1.4239) < 0.05 + 4 * float(row["energy_stderr"])
    run("generate bundled --L 128 --samples 2 --steps 12 --out made.h5 --plot made.png", tmp_path)
    with load_fields(tmp_path / "made.h5") as made:
        assert made.shape == (2, 128, 128)
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
        with load_fields(tmp_path / f"{precision}.h5") as fields:
            made[precision] = fields.values
            assert fields.attrs["precision"] == precision
    assert not np.array_equal(*made.values())
    flipped = np.sign(made["float32"]) != np.sign(made["bfloat16"])
    assert flipped.mean() < 0.01


def test_commands_by_hand(folder):
    """The same pipeline, one command at a time."""
    made = run("generate-ising --L 16 --samples 300 --seed 5 --out a.h5 --plot a.png", folder)
    assert "sigma" in made.stdout
    assert "independent fields of 300" in made.stderr
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")
    done = run("generate-ising --L 16 --samples 300 --seed 5 --out a.h5 --json", folder)
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
        done = run(f"fit-spectrum map.npy --method {method} --json --overwrite", tmp_path)
        fit = json.loads(done.stdout)
        assert fit["fit_C"] == pytest.approx(2.0, rel=1e-5)
        assert fit["fit_k0_squared"] == pytest.approx(2.5, rel=1e-5)
        assert fit["fit_alpha"] == pytest.approx(1.1, rel=1e-5)
        assert fit["fit_alpha_stderr"] is None
    done = run("fit-spectrum map.npy --n-samples 1000 --json --overwrite", tmp_path)
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
        with load_fields(tmp_path / "o.h5") as made, load_fields(tmp_path / "c.h5") as coarse:
            assert made.shape == (8, 16, 16)
            assert made.attrs["consistency_residual"] < 1e-5
            assert made.attrs["downsampling_of_input"] == kind
            if kind == "box":
                blocks = made.values.reshape(8, 8, 2, 8, 2).mean((2, 4))
                np.testing.assert_allclose(blocks, coarse.values, atol=1e-5)
    run(f"super-resolve {folder / 'run'} c.h5 --factor 4 {options}", tmp_path)
    with load_fields(tmp_path / "o.h5") as made:
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
    assert "use super-resolve" in refused.stderr
    live = "--set training.live_threshold=0.1 --set training.live_multiple=8"
    run(f"train config.toml {SHORT} {live}", tmp_path)
    run("generate . --samples 5 --steps 6 --sampler stochastic --out g.h5", tmp_path)
    with load_fields(tmp_path / "g.h5") as made:
        assert made.shape == (5, 16, 16)
        assert np.isfinite(made.values).all()
        assert made.attrs["protocol"] == "generation"


PUBLISHED_FORM = """
out = "unused"
[data]
source = "cifar10"
[process]
tau = 1e-4
k_c = 3.0
[process.law]
size = 8
C = 0.91001
k0_squared = 1.940556
alpha = 1.051304
basis = "cosine"
[process.schedule]
kind = "linear"
resolution = 0.4
[network]
kind = "ncsnpp"
channels = 8
multipliers = [1, 2]
blocks = 1
attention = [4]
output = "paper"
[training]
prediction = "eps"
"""


def test_a_checkpoint_of_the_published_code_is_imported_and_runs(tmp_path):
    (tmp_path / "form.toml").write_text(PUBLISHED_FORM)
    torch.manual_seed(0)
    network = NCSNpp(8, 8, (1, 2), 1, (4,), field_channels=3).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    averaged = {f"module.{name}": weight for name, weight in network.state_dict().items()}
    last = {name: weight + 1 for name, weight in averaged.items()}
    torch.save({"ema": averaged, "model": last, "step": 7}, tmp_path / "theirs.pt")
    done = run("import-checkpoint theirs.pt --config form.toml --out ours", tmp_path)
    assert done.stdout == "ours/model.safetensors\n"
    assert "3 channels of 8 x 8, ema weights after 7 steps" in done.stderr
    made = "generate ours --samples 12 --steps 4 --out made.h5 --plot made.png"
    run(made, tmp_path)
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")
    with xr.open_dataset(tmp_path / "made.h5", engine="h5netcdf") as data:
        assert dict(data["field"].sizes) == {"sample": 12, "channel": 3, "y": 8, "x": 8}
        assert np.isfinite(data["field"]).all()

    model = load_model(tmp_path / "ours")
    x_n, n = torch.randn(2, 3, 8, 8), 300.0
    alpha, sigma = model.process.marginal(n)
    raw = network(inverse(x_n, "cosine"), torch.full((2,), n)).detach()
    # modes of the raw output in the paper's normalisation are eps
    eps = torch.from_numpy(dctn(raw.numpy(), axes=(-2, -1))) / 8**2
    expected = (x_n - sigma * eps) / alpha
    torch.testing.assert_close(
        model.denoiser()(x_n, n).double(), expected, rtol=1e-4, atol=1e-4 * float(expected.std())
    )

    run("super-resolve ours made.h5 --factor 2 --out x.h5", tmp_path)
    with xr.open_dataset(tmp_path / "x.h5", engine="h5netcdf") as data:
        assert data["start"].shape == data["field"].shape == (12, 3, 8, 8)
    np.save(tmp_path / "grey.npy", np.zeros((2, 1, 8, 8), np.float32))
    refused = run("super-resolve ours grey.npy --factor 2 --out y.h5", tmp_path, code=2)
    assert "grey.npy: has 1 channels (field), the model 3 (red, green, blue)" in refused.stderr
    other = "import-checkpoint theirs.pt --config form.toml --set network.blocks=2 --out other"
    assert "another configuration?" in run(other, tmp_path, code=2).stderr
    (tmp_path / "theirs.pt").write_bytes(b"junk")
    run("import-checkpoint theirs.pt --config form.toml --out other", tmp_path, code=2)
    assert not (tmp_path / "other" / "model.safetensors").exists()


def test_help_of_every_command_has_an_example(folder):
    assert "reproduce" in run("--help", folder).stdout
    for name in COMMANDS:
        text = run(f"{name} --help", folder).stdout
        assert re.search(rf"\n  Example:\n +skild-physics {name}", text)


BAD = [
    ("generate-ising --L 2", "L must lie in"),
    ("generate-ising", "--L"),
    ("generate-ising --L 8 --beta hot", "hot"),
    ("generate-ising --L 8 --beta -1", "beta"),
    ("generate-ising --L 8 --beta nan", "beta"),
    ("generate-ising --L 8 --samples 0", "samples"),
    ("generate-ising --L 8 --updates none", "none"),
    ("generate-ising --L 16 --samples 10 --out run/train.h5 --seed 9", "pass --overwrite"),
    ("generate-ising --L 16 --samples 10 --out run/spectrum.nc", "run/spectrum.nc"),
    ("generate-ising --L 8 --out /proc/nowhere/x.h5", "/proc/nowhere"),
    ("fit-spectrum missing.h5", "missing.h5: no such file"),
    ("fit-spectrum foreign.h5", "foreign.h5"),
    ("fit-spectrum text.h5", "text.h5"),
    ("fit-spectrum run/train.h5 --out run/spectrum.nc", "run/spectrum.nc: exists already"),
    ("fit-spectrum run/train.h5 --out /proc/nowhere/x.nc", "cannot make"),
    ("fit-spectrum run/train.h5 --out x.nc --plot x.xyz", ".xyz"),
    ("fit-spectrum run/train.h5 --out x.nc --k-min 1000", "shells"),
    ("fit-spectrum run/train.h5 --basis sine", "sine"),
    ("fit-spectrum run/train.h5 run/heldout.h5 --out x.nc", "2 sources"),
    ("fit-spectrum run/train.h5 --tile", "--tile is for folders"),
    ("fit-spectrum run/train.h5 --n-samples 5", "--n-samples is for variance maps"),
    ("fit-spectrum run/train.h5 --k0-squared -1", "--k0-squared"),
    ("fit-spectrum run/train.h5 --k0-squared 1 --method paper", "paper"),
    ("fit-spectrum empty", "empty: no pictures"),
    ("fit-spectrum pictures --size 64", "smaller than 64 x 64"),
    ("fit-spectrum pictures --size 8 --tile", "is the data constant"),
    ("fit-spectrum pictures --size 0", "--size must be at least 1"),
    ("fit-spectrum nan.npy", "nan.npy: a variance map has no nan"),
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
    ("eval-correlators run/heldout.h5", "LABEL=FILE"),
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
    (folder / "archive" / "cifar-10-python.tar.gz").write_bytes(b"half a download")
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
    done = run("eval-correlators a=text.h5 --out never.nc", crowded, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert not (crowded / "never.nc").exists()


@needs_muon
def test_readme_commands_run(folder, tmp_path):
    """Every skild-physics command of the README, in order, as written, but for the long training
    and the one that downloads."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("skild-physics ")]
    assert len(commands) >= 5
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "ising").symlink_to(folder / "run")
    (tmp_path / "paper_figures").symlink_to(ROOT / "paper_figures")
    for command in commands:
        arguments = command.removeprefix("skild-physics ")
        if arguments.startswith("reproduce") or "cifar10" in arguments:
            continue
        run(arguments, tmp_path)
    for target in ("reproduce", "test", "test-lowest"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_reproduce_reaches_the_published_size_of_residuals(tmp_path):
    """The README's figure: residuals of kappa4 far below those of SR3 (0.1 at r = 1)."""
    run_long = subprocess.run([SKILD, "reproduce", "--out", "run"], cwd=tmp_path, timeout=3600)
    assert run_long.returncode == 0
    with xr.open_dataset(tmp_path / "run" / "correlators.nc", engine="h5netcdf") as data:
        residual = data["kappa4_residual"].sel(source="SKILD")
        stderr = data["kappa4_residual_stderr"].sel(source="SKILD")
        assert (np.abs(residual) < 0.02 + 4 * stderr).all()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.314979, 0.00072, "0.31498(72)"),
        (-1.4336, 0.012, "-1.434(12)"),
        (2.0, 0.096, "2.000(96)"),
        (2.0, 0.0996, "2.00(10)"),
        (2.0, 0.996, "2.0(1.0)"),
        (76.9, 2.28, "76.9(2.3)"),
        (76.9, 22.8, "77(23)"),
        (123.456, 9.96, "123(10)"),
        (123.456, 99.6, "123(100)"),
        (1234.5, 230.4, "1234(230)"),
        (-3.2e9, 1.5e6, "-3200000000(1500000)"),
        (5.0, 0.0, "5"),
        (5.0, math.nan, "5"),
        (5.0, math.inf, "5"),
        (math.nan, 0.1, "nan"),
        (math.inf, 0.1, "inf"),
        # equal pictures: what rounding leaves of one and of zero
        (1 - 1e-16, 3e-17, "1"),
        (-4e-14, 1.1e-13, "-0.4(1.1)e-13"),
        (3.14159e-12, 2e-15, "3.1416(20)e-12"),
        (0.0123456789, 1.2e-13, "1.234567890000(12)e-2"),
        # a parameter that is held, from a jackknife
        (100.0, 4.9e-13, "100"),
        (0.0, 5e-324, "0"),
    ],
)
def test_values_with_errors(value, stderr, text):
    """As pyerrors 2.17 writes them, but for errors that round up to 10 and those near 1e-16."""
    assert with_error(value, stderr) == text


def test_readme_table_is_the_committed_result():
    readme = (ROOT / "README.md").read_text()
    path = ROOT / "paper_figures" / "four_point.nc"
    names = {f"kappa4({r})": ("kappa4", {"side": r}) for r in (1, 2, 4, 8, 16, 32)}
    names |= {
        "energy per spin": ("energy", {}),
        r"\|m\| per spin": ("abs_magnetization", {}),
        "Binder parameter": ("binder", {}),
        "specific heat": ("specific_heat", {}),
    }
    with xr.open_dataset(path, engine="h5netcdf") as data:
        truth, *others = data["source"].values
        assert len(others) == 4
        for title, (name, where) in names.items():
            at = data.sel(where)
            cells = [(at[name], at[f"{name}_stderr"], truth)]
            cells += [
                (at[f"{name}_residual"], at[f"{name}_residual_stderr"], label) for label in others
            ]
            shown = [
                with_error(*(float(x.sel(source=label)) for x in (value, stderr)))
                for value, stderr, label in cells
            ]
            assert f"| {title} | {' | '.join(shown)} |" in readme


def test_readme_row_of_the_papers_own_case_is_the_committed_result():
    path = ROOT / "paper_figures" / "super_resolution_128.nc"
    with xr.open_dataset(path, engine="h5netcdf") as data:
        row = data.sel(source="SKILD")
        values = [*row["kappa4_residual"].values, float(row["energy_residual"])]
        errors = [*row["kappa4_residual_stderr"].values, float(row["energy_residual_stderr"])]
    cells = [with_error(float(x), float(e)) for x, e in zip(values, errors, strict=True)]
    assert f"| SKILD - truth | {' | '.join(cells)} |" in (ROOT / "README.md").read_text()


def test_readme_table_of_scale_space_is_the_committed_result():
    readme = (ROOT / "README.md").read_text()
    with xr.open_dataset(ROOT / "paper_figures" / "scale_space.nc", engine="h5netcdf") as data:
        assert len(data["source"]) == 17
        for label in data["source"].values[1:]:
            row = data.sel(source=label)
            title, kind = label.rsplit(", ", 1)
            cells = [title, kind, f"{float(row['gflop']):.1f}", f"{float(row['seconds']):.3f}"]
            for name, where in [*(("kappa4", {"side": r}) for r in (1, 4, 16)), ("energy", {})]:
                residual, stderr = (
                    float(row[f"{name}_{which}"].sel(where))
                    for which in ("residual", "residual_stderr")
                )
                cells.append(with_error(residual, stderr))
            cells.append(f"{float(row['overlap']):.2f}")
            assert f"| {' | '.join(cells)} |" in readme


def test_readme_table_of_photographs_is_the_committed_result():
    readme = (ROOT / "README.md").read_text()
    with xr.open_dataset(ROOT / "paper_figures" / "photographs.nc", engine="h5netcdf") as data:
        rows = quality_table(data)
    assert len(rows) == 15
    for row in rows:
        assert f"| {' | '.join(row)} |" in readme


@pytest.mark.parametrize(
    "name",
    [
        *["four_point", "effective_resolution", "convergence", "inverse_renormalization"],
        *["scale_space", "photographs"],
    ],
)
def test_figures_are_drawn_from_their_committed_files(name, tmp_path, monkeypatch):
    """With one command each, which measures nothing, from any notebook."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for file in (ROOT / "paper_figures").glob("*.*"):
        if file.suffix in (".py", ".nc"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    done = subprocess.run([sys.executable, tmp_path / f"{name}.py"], timeout=300, check=False)
    assert done.returncode == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
