"""Pictures on the command line: training, generation, super-resolution and its quality."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from field_files import everything, usable
from PIL import Image
from scipy.fft import dctn
from small_runs import one_thread, start, to_toml, wait_until, warm_up

import skild_physics as sk
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import starting_step
from skild_physics.fields import open_fields, pictures_of
from skild_physics.fields.photographs import photograph_files
from skild_physics.kspace import forward, inverse
from skild_physics.models.checkpoint import load

threads = pytest.fixture(autouse=True, scope="module")(one_thread)

CONFIG = {
    "out": "model",
    "data": {"source": "photographs", "size": 16, "heldout": 1},
    "process": {
        "k_c": 3.0,
        "law": {
            "size": 16,
            "C": 0.9,
            "k0_squared": 2.0,
            "alpha": 1.1,
            "basis": "cosine",
        },
        "schedule": {"kind": "linear", "theta": 9.0, "resolution": 0.5},
    },
    "network": {"channels": [8], "blocks": [1], "patch": 2, "whitened": True},
    "training": {"steps": 4, "batch_size": 4, "compile": False, "precision": "float32"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model of colour pictures, hardly trained, and 10 pictures of 16 x 16."""
    warm_up()
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "config.toml").write_text(to_toml(CONFIG))
    run("train config.toml", folder)
    cat = Image.open(photograph_files("test")[0])
    (folder / "held").mkdir()
    for i in range(10):
        cat.crop((20 * i, 60, 20 * i + 64, 124)).resize((16, 16), Image.Resampling.BOX).save(
            folder / "held" / f"{i}.png"
        )
    return folder


def run(arguments, folder, code=0, **environment):
    """Standard output of a command that ends with this code, and its lines of error."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        command = start(folder, *shlex.split(arguments), **environment)
        ended, out, error = command.end()
    finally:
        os.chdir(before)
    assert ended == code, error
    assert "Traceback" not in error
    return out, error


def pictures(path):
    with open_fields(path) as fields:
        return everything(fields)


def bytes_of(path):
    return np.rint((pictures(path) + 1) * 127.5).astype(int)


# generation


def test_generated_pictures_do_not_depend_on_batches_or_format(folder, tmp_path):
    made = f"generate {folder / 'model'} --samples 7 --steps 4"
    run(f"{made} --batch-size 7 --out a.h5", tmp_path)
    run(f"{made} --batch-size 3 --out b.npz", tmp_path)
    run(f"{made} --batch-size 2 --out c", tmp_path)
    a = np.clip(np.rint((pictures(tmp_path / "a.h5") + 1) * 127.5), 0, 255)
    with np.load(tmp_path / "b.npz") as archive:
        b = archive["arr_0"]
    assert b.shape == (7, 16, 16, 3)
    assert b.dtype == np.uint8
    # sums in another order may round a value at the edge of two bytes otherwise
    assert np.abs(a - b.transpose(0, 3, 1, 2)).max() <= 1
    assert np.abs(bytes_of(tmp_path / "c") - b.transpose(0, 3, 1, 2)).max() <= 1
    assert len(list((tmp_path / "c").glob("*.png"))) == 7
    note = json.loads((tmp_path / "c" / "provenance.json").read_text())
    assert note["protocol"] == "generation"
    assert len(note["checkpoint_sha256"]) == 64
    assert not list(tmp_path.glob(".*"))


def test_generation_goes_on_after_it_was_killed(folder, tmp_path):
    made = f"generate {folder / 'model'} --samples 12 --steps 60 --batch-size 1"
    run(f"{made} --out whole.npz", tmp_path)
    parts = tmp_path / ".made.npz.skild-physics"
    command = start(tmp_path, *shlex.split(made), "--out", tmp_path / "made.npz")
    assert wait_until(lambda: len(list(parts.glob("[0-9]*.npz"))) >= 3)
    command.send(signal.SIGKILL)
    command.end()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.npz")}
    assert 3 <= len(kept) < 12
    _, refused = run(f"{made} --seed 1 --out made.npz", tmp_path, code=2)
    assert "interrupted run with other settings" in refused
    assert kept == {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.npz")}
    run(f"{made} --out made.npz", tmp_path)
    with np.load(tmp_path / "made.npz") as a, np.load(tmp_path / "whole.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    assert not parts.exists()


def test_processes_of_torchrun_make_what_one_makes(folder, tmp_path):
    made = f"generate {folder / 'model'} --samples 9 --steps 4 --batch-size 2"
    run(f"{made} --out one", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        start(
            tmp_path,
            *shlex.split(made),
            "--out",
            tmp_path / "two",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        for rank in range(2)
    ]
    ended = [command.end() for command in both]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "9 fields" in ended[0][2]
    assert ended[1][1:] == ("", "")
    np.testing.assert_array_equal(bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two"))


# super-resolution


def test_the_start_of_the_paired_protocol_is_fixed_by_seeds(folder, tmp_path):
    """The exported start is the forward marginal of each picture with the noise of its number."""
    made = f"super-resolve {folder / 'model'} {folder / 'held'} --factor 2.5 --steps 2"
    run(f"{made} --batch-size 4 --out a.h5 --start-out a.npy", tmp_path)
    run(f"{made} --batch-size 10 --out b --start-out b.npy --seed 0", tmp_path)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(a, b)
    assert (a.shape, a.dtype) == ((10, 3, 16, 16), np.float32)
    with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["start"], a)
        assert data.attrs["channels"] == "red,green,blue"
    process = load(folder / "model").process
    n = starting_step(process, 2.5, 0.1)
    alpha, sigma = (c.numpy() for c in process.marginal(n))
    eps = SampleNoise(0, range(10)).like(torch.empty(10, 3, 16, 16)).numpy()
    x_0 = dctn(pictures(folder / "held").astype(float), axes=(-2, -1), norm="ortho")
    expected = inverse(torch.from_numpy(alpha * x_0 + sigma * eps), "cosine")
    np.testing.assert_allclose(a, expected, atol=2e-5)


@pytest.mark.parametrize("factor", [1.5, 2.3, 3, 8])
def test_real_coarse_pictures_at_any_factor(folder, tmp_path, factor):
    """Also where the network takes no lattice of that size (2.3 x 16 = 36.8)."""
    made = f"super-resolve {folder / 'model'} {folder / 'held'} --protocol observed --steps 3"
    options = f"--downsampling bicubic --factor {factor} --samples 3"
    _, said = run(f"{made} {options} --out a --plot a.png", tmp_path)
    size = round(16 * factor)
    assert f"3 fields of {size} x {size}" in said
    assert pictures(tmp_path / "a").shape == (3, 3, size, size)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["0.png", "1.png", "2.png", "provenance.json"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    if size % 2 == 0:
        held = pictures(folder / "held")[:3]
        again = sk.coarse_grain(tmp_path / "a", factor=factor, kernel="bicubic")
        # of 8-bit pictures, some of which are clipped
        assert np.sqrt(np.mean((again.values - held) ** 2)) < 0.1 * held.std()


def test_coarse_pictures_and_interpolations_by_command(folder, tmp_path):
    run(f"coarse-grain {folder / 'held'} --factor 2 --downsampling bicubic --out small", tmp_path)
    small = pictures(tmp_path / "small")
    assert small.shape == (10, 3, 8, 8)
    picture = Image.open(folder / "held" / "4.png").resize((8, 8), Image.Resampling.BICUBIC)
    own = np.asarray(picture).astype(int).transpose(2, 0, 1)
    assert np.abs(bytes_of(tmp_path / "small")[4] - own).max() <= 1
    for kernel, filter_ in (("bicubic", 3), ("lanczos", 1)):
        run(f"interpolate small --factor 2 --kernel {kernel} --out {kernel}", tmp_path)
        stored = Image.open(tmp_path / "small" / "4.png").resize((16, 16), filter_)
        own = np.asarray(stored).astype(int).transpose(2, 0, 1)
        assert np.abs(bytes_of(tmp_path / kernel)[4] - own).max() <= 1


def test_the_quality_of_what_was_made(folder, tmp_path):
    model = folder / "model"
    run(f"super-resolve {model} {folder / 'held'} --factor 2 --steps 3 --out made.npz", tmp_path)
    out, _ = run(f"eval-images truth={folder / 'held'} made=made.npz --csv q.csv", tmp_path)
    assert "PSNR / dB" in out
    assert len((tmp_path / "q.csv").read_text().splitlines()) == 11
    with xr.open_dataset(tmp_path / "eval-images.nc", engine="h5netcdf") as data:
        values = data["psnr"].sel(source="made").values
    error = ((bytes_of(folder / "held") - bytes_of(tmp_path / "made.npz")) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(values, 10 * np.log10(255**2 / error), rtol=1e-9)


# prepared pictures


@pytest.fixture
def mixed(tmp_path):
    """Pictures of many kinds and sizes in subfolders, one damaged, one too small."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, mode in enumerate(("RGB", "L", "CMYK", "P", "RGBA")):
        picture = Image.fromarray(rng.integers(0, 256, (40 + 3 * i, 50, 3), dtype=np.uint8))
        name = f"{i}.tif" if mode == "CMYK" else f"{i}.png"
        picture.convert(mode).save(folder / "below" / name)
    (folder / "broken.png").write_bytes((folder / "below" / "0.png").read_bytes()[:500])
    Image.new("RGB", (9, 90)).save(folder / "tiny.png")
    return folder


def test_pictures_are_prepared_once(mixed, tmp_path):
    made = f"prepare-images {mixed} --size 16 --resize --out p.h5"
    _, said = run(made, tmp_path)
    assert "5 fields of 16 x 16" in said
    assert "2 of 7 files skipped" in said
    assert "skipped tiny.png: 9 x 90 pixels, smaller than 16 x 16" in said
    assert "skipped broken.png: " in said
    direct, _ = usable(open_fields(mixed, size=16, resize=True))
    np.testing.assert_array_equal(pictures(tmp_path / "p.h5"), direct)
    with xr.open_dataset(tmp_path / "p.h5", engine="h5netcdf") as data:
        assert set(json.loads(data.attrs["skipped"])) == {"tiny.png", "broken.png"}
    _, said = run(made, tmp_path)
    assert "made already" in said
    assert "2 of 7 files skipped" in said
    _, refused = run(f"{made} --grey", tmp_path, code=2)
    assert "exists already" in refused
    _, refused = run(f"{made} --strict --overwrite", tmp_path, code=2)
    assert "broken.png" in refused
    assert not list(tmp_path.glob(".*"))


def test_training_reads_prepared_pictures(mixed, tmp_path):
    """As the same pictures in their folder, from memory and from the disk."""
    run(f"prepare-images {mixed} --size 16 --resize --out p.h5", tmp_path)
    (tmp_path / "config.toml").write_text(to_toml(CONFIG))
    losses = []
    for out, source in (
        ("a", "data.source=p.h5"),
        ("b", "data.source=p.h5 --set data.memory_gib=1e-7"),
        ("c", f"data.source={mixed} --set data.resize=true --set data.heldout=3"),
    ):
        _, said = run(f"train config.toml --set out={out} --set {source}", tmp_path)
        assert ("skipped tiny.png: 9 x 90 pixels" in said) == (out == "c")
        first = (tmp_path / out / "metrics.jsonl").read_text().splitlines()[0]
        losses.append(json.loads(first)["loss"])
    assert losses[0] == losses[1] == losses[2]


def test_published_configurations_run_on_pictures_at_hand(tmp_path):
    """Dry runs with photographs for data, and fewer channels for time."""
    small = "--set network.channels=8 --set network.blocks=1 --set training.batch_size=2"
    options = (
        f"--set data.size=32 --set data.resize=false {small} --set data.source=photographs "
        "--set data.heldout=1 --json"
    )
    out, _ = run(f"train cifar10-linear --dry-run {options} --set training.compile=false", tmp_path)
    assert json.loads(out)["parameters"] > 100_000
    options = options.replace("size=32", "size=128")
    out, _ = run(f"train imagenet128-x4 --dry-run {options} --set training.compile=false", tmp_path)
    assert json.loads(out)["seconds_per_step"] > 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


BAD = [
    ("generate model --samples 0 --out x", "--samples must be at least 1"),
    ("generate model --out thesis", "thesis: holds other files"),
    ("super-resolve model mixed --factor 2 --out x", "pass --size N"),
    ("super-resolve model empty --factor 2 --out x", "empty: no pictures"),
    ("super-resolve model damaged --factor 2 --out x", "damaged/x.png: "),
    ("super-resolve model held --size 64 --factor 2 --out x", "smaller than 64 x 64"),
    ("super-resolve model held --factor 2 --protocol observed --out x", "pass --downsampling"),
    (
        "super-resolve model held --factor 40 --protocol observed --downsampling box --out x",
        "factor must be at most",
    ),
    ("super-resolve model truncated.npz --factor 2 --out x", "truncated.npz: not a readable"),
    ("super-resolve model held --factor 2 --start-out thesis/a.tex --out x", "exists already"),
    ("coarse-grain held --factor 3 --out x", "whole pixels"),
    ("interpolate held --factor 0.5 --out x", "factor must be at least 1"),
    ("interpolate missing --factor 2 --out x", "missing: no such file"),
    ("eval-images truth=held made=fewer --samples 10 --out x", "made has 9 pictures, fewer than"),
    ("eval-images truth=held made=mixed --out x", "a, b of made have no partner in truth (0, 1, 2"),
    ("prepare-images held --size 64 --out x", "can be used, of 10; the first is 0.png: 16 x 16"),
    ("prepare-images empty --out x", "empty: no pictures"),
    ("prepare-images photographs --tile --out x", "--tile is for folders"),
    ("reproduce photographs --L 8 --out x", "--L goes with the case ising"),
]


@pytest.fixture(scope="module")
def crowded(folder):
    """Beside the model and the pictures all kinds of wrong input."""
    for name in ("empty", "mixed", "damaged", "fewer", "thesis"):
        (folder / name).mkdir()
    (folder / "thesis" / "a.tex").write_text("years of work")
    held = sorted((folder / "held").iterdir())
    Image.open(held[0]).save(folder / "mixed" / "a.png")
    Image.open(held[0]).resize((20, 20)).save(folder / "mixed" / "b.png")
    for path in held[1:]:
        (folder / "fewer" / path.name).write_bytes(path.read_bytes())
        (folder / "damaged" / path.name).write_bytes(path.read_bytes())
    (folder / "damaged" / "x.png").write_bytes(held[0].read_bytes()[:200])
    np.savez(folder / "truncated.npz", arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    whole = (folder / "truncated.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_pictures_are_one_line_and_harm_nothing(crowded, arguments, message):
    before = {path.name for path in crowded.iterdir() if not path.name.startswith(("out", "err"))}
    _, error = run(arguments, crowded, code=2)
    assert message in error
    assert error.splitlines()[-1].startswith("Error: ")
    after = {path.name for path in crowded.iterdir() if not path.name.startswith(("out", "err"))}
    assert before == after


def test_the_bundled_model_of_photographs_knows_more_than_their_spectrum():
    """On photographs it never saw, at three scales; Gaussian theory's mean is sqrt(abar) x_n."""
    model = load("bundled-photographs")
    process = model.process
    fields = open_fields("photographs-test")
    assert set(pictures_of(fields)) == {0, 1}
    truth = torch.from_numpy(everything(fields[::2]))
    x_0 = forward(truth, "cosine")
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    for resolution, ratio in ((16.0, 0.75), (32.0, 0.6), (64.0, 0.5)):
        n = process.step_at_resolution(resolution, 0.1)
        alpha, sigma = (c.float() for c in process.marginal(n))
        x_n = alpha * x_0 + sigma * eps
        with torch.inference_mode():
            errors = [
                (each - x_0).square().mean((1, 2, 3))
                for each in (model.denoiser()(x_n, n), alpha * x_n)
            ]
        # measured: 0.66, 0.50, 0.39
        ours, linear = (error.mean() for error in errors)
        gain = errors[1] - errors[0]
        assert float(ours) < ratio * float(linear)
        assert float(gain.mean()) > 4 * float(gain.std()) / len(gain) ** 0.5


@pytest.mark.slow
def test_the_demonstration_trains_and_beats_nothing_by_magic(tmp_path):
    """Trained for a few steps only, it runs to its end, and its table has every method."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("skild-physics"),
            *shlex.split("reproduce photographs --retrain --steps 3 --set training.steps=20"),
            *shlex.split("--set training.compile=false --out run"),
        ],
        cwd=tmp_path,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0
    with xr.open_dataset(tmp_path / "run" / "photographs.nc", engine="h5netcdf") as data:
        assert dict(data.sizes)["factor"] == 3
        assert float(data["coarse_error"].sel(source="SKILD").max()) < 0.01
