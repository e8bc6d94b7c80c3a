"""The library as its readers use it: the screen, every name's example, and commands as its clients.

That each command gives what the call of its name gives keeps cli/ thin.
"""

import doctest
import inspect
import logging
import shlex
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from small_runs import make_inputs, one_thread, to_toml

import skild_physics as sk
from skild_physics.cli.main import COMMANDS, main
from skild_physics.config import load_config
from skild_physics.models.checkpoint import build_model, save_model

threads = pytest.fixture(autouse=True, scope="module")(one_thread)

NETWORK = {"channels": [8], "blocks": [1], "patch": 1}
FLEXI = {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 1}
SKILD = {"spectrum": "spectrum.nc", "k_c": 3.0, "schedule": {"kind": "linear", "resolution": 0.5}}
LEVELS = {"kind": "scale-space", "size": 32, "basis": "periodic"}
WHITE = {"white": {"size": 32, "basis": "periodic"}, "schedule": {"kind": "linear-beta"}}
COARSE = {"factors": [1.5, 8], "kernels": {"box": 1, "gaussian": 1}}
KINDS = {
    "skild": {"process": SKILD, "network": NETWORK},
    "conditional": {"process": SKILD, "network": NETWORK, "condition": {"factor": 2}},
    "coarse": {"process": SKILD, "network": NETWORK, "condition": COARSE},
    "sr3": {"process": WHITE, "network": NETWORK, "condition": {"factor": 2}},
    "scale-space": {"process": LEVELS | {"factors": [2], "degradation": "box"}, "network": FLEXI},
    "ddpm": {"process": LEVELS | {"factors": []}, "network": FLEXI},
}
CAN = {
    "skild": {"generate", "reconstruct", "super_resolve", "enlarge"},
    "conditional": {"reconstruct", "super_resolve"},
    "coarse": {"generate", "reconstruct", "super_resolve", "enlarge"},
    "sr3": {"reconstruct", "super_resolve"},
    "scale-space": {"generate", "reconstruct", "super_resolve"},
    "ddpm": {"generate"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lattices, their spectrum, pictures, and models of every kind that were never trained."""
    folder = make_inputs(tmp_path_factory.mktemp("facade"), L=32, samples=40)
    for name, values in KINDS.items():
        config = folder / f"{name}.toml"
        config.write_text(to_toml({"out": f"run-{name}", "data": {"source": "train.h5"}} | values))
        config = load_config(config)
        torch.manual_seed(0)
        model = build_model(config, ("spin",), *config.process.modes())
        save_model(folder / f"{name}.safetensors", model)
    sk.coarse_grain(folder / "train.h5", factor=4, out=folder / "coarse.h5").close()
    sk.sample_exact(folder / "coarse.h5", factor=4, draws=3, out=folder / "exact.h5").close()
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i:02}.png")
    return folder


# the screen


def test_nothing_is_imported_before_it_is_asked_for():
    """Neither torch nor anything else that takes long."""
    code = (
        "import sys, skild_physics as sk\n"
        "heavy = {'torch', 'numpy', 'numba', 'xarray', 'scipy', 'matplotlib', 'rich'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "assert {'open', 'load', 'generate_ising'} <= set(dir(sk)) & set(sk.__all__)\n"
        "assert sk.__version__\n"
        "sk.open\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'generate_potts'"):
        _ = sk.generate_potts


@pytest.mark.parametrize("kind", KINDS)
def test_the_screen(kind, folder, tmp_path, monkeypatch):
    """Every line of it, for every kind of model; what a kind cannot do is refused by name."""
    monkeypatch.chdir(tmp_path)
    truth = sk.generate_ising(L=32, samples=24, seed=2, out="held.h5")
    assert "energy per spin" in repr(sk.summarize(truth))
    spectrum = sk.fit_spectrum(truth, k_min=12, k_max=60, momentum="lattice")
    assert "alpha" in repr(spectrum)
    model = sk.load(folder / f"{kind}.safetensors")
    assert isinstance(model, sk.Model)
    assert "32 x 32" in repr(model)
    coarse = sk.coarse_grain(truth, factor=2, kernel="box")
    sampler = type(model.default_sampler)(5)
    verbs = {
        "generate": lambda: model.generate(3, sampler=sampler),
        "reconstruct": lambda: model.reconstruct(truth[4:14], factor=2, sampler=sampler),
        "super_resolve": lambda: model.super_resolve(coarse[:3], factor=2, sampler=sampler),
        "enlarge": lambda: model.enlarge(truth[:1], factor=2, sampler=sampler),
    }
    made = {}
    for verb, call in verbs.items():
        if verb in CAN[kind]:
            made[verb] = call()
        else:
            with pytest.raises(sk.InputError):
                call()
    assert model.can_generate == ("generate" in CAN[kind])
    for verb, fields in made.items():
        assert fields.dtype == np.float32
        assert np.isfinite(fields.values).all()
        assert fields.dims == ("sample", "y", "x")
        assert fields.shape[-1] == (64 if verb == "enlarge" else 32)
        assert fields.attrs["checkpoint_sha256"]
        assert fields.attrs["n_evals"] == 5
        # nothing is known of what these models were trained on, but of what they are given
        beta = truth.attrs["beta"] if verb in ("reconstruct", "enlarge") else None
        assert fields.attrs.get("beta") == beta
    if "generate" in made:
        again = model.generate(3, sampler=sk.Ancestral(5), seed=1, out="made.npz")
        assert np.load("made.npz")["arr_0"].shape == (3, 32, 32, 1)
        assert again.shape == (3, 32, 32)
    if "reconstruct" in made:
        assert made["reconstruct"]["sample"].values.tolist() == list(range(4, 14))
        assert made["reconstruct"]["start"].shape == (10, 32, 32)
        result = sk.eval_correlators(truth=truth, made=made["reconstruct"])
        assert result.dataset["n_pairs"].sel(source="made") == 10
        assert float(result.dataset["susceptibility_residual_stderr"].sel(source="made")) > 0
        assert "kappa4(r = 4)" in repr(result)
        assert "<pre" in result._repr_html_()
        result.plot().savefig("kappa4.png")
        result.save("correlators.nc")
        xr.testing.assert_equal(sk.Correlators.load("correlators.nc").dataset, result.dataset)


def test_a_training_is_one_line_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "skild_physics")
    sk.generate_ising(L=16, samples=100, out="held.h5")
    small = ("network.channels=[8]", "network.blocks=[1]", "training.active_multiple=8")
    fixed = ("training.compile=false", "training.precision=float32", "training.threads=1")
    how = {"data": "held.h5", "out": "run", "overrides": small + fixed}
    if not hasattr(torch.optim, "Muon"):
        how["overrides"] += ("training.optimizer=adamw",)
    model = sk.train("ising64", steps=3, **how)
    assert model.trained_steps == 3
    assert model.size == 16
    again = sk.train("ising64", steps=3, **how)
    assert "trained already" in caplog.text
    for one, other in zip(model.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(sk.InputError, match="another configuration"):
        sk.train("ising64", steps=4, **how)
    other = sk.fit_spectrum(sk.generate_ising(L=16, samples=64, seed=9))
    with pytest.raises(sk.InputError, match="another spectrum"):
        sk.train("ising64", steps=3, spectrum=other, **how)


# every name


def documented():
    for name in sk.__all__:
        found = getattr(sk, name)
        yield name, found
        if inspect.isclass(found) and name == "Model":
            for verb in ("generate", "reconstruct", "super_resolve", "enlarge"):
                yield f"Model.{verb}", getattr(found, verb)


NAMES = dict(documented())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    """In its docstring, in a folder without anything in it."""
    monkeypatch.chdir(tmp_path)
    found = NAMES[name]
    module = import_module(found.__module__)
    tests = doctest.DocTestFinder(recurse=False).find(found, name, module, globs={})
    assert sum(len(test.examples) for test in tests) > 0, f"sk.{name} has no example"
    failures = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    for test in tests:
        runner.run(test, out=failures.append)
    assert not failures, "".join(failures)


# commands are clients


def same_fields(folder):
    """The command's file holds what the call gives."""

    def check(command, called):
        with xr.open_dataset(folder / command, engine="h5netcdf") as written:
            (name,) = {"spins", "field", "pixels"} & set(written.data_vars)
            np.testing.assert_array_equal(sk.open(folder / command).values, called.values)
            assert name
            for key in written.attrs.keys() - {"input"}:
                if key in called.attrs and key not in ("skipped", "source"):
                    assert np.array_equal(written.attrs[key], called.attrs[key]), key

    return check


def same_dataset(folder):
    def check(command, called):
        with xr.open_dataset(folder / command, engine="h5netcdf") as written:
            xr.testing.assert_equal(written, called)

    return check


CLIENTS = {
    "generate-ising": (
        "--L 8 --samples 20 --seed 3 --out a.h5",
        lambda: sk.generate_ising(8, samples=20, seed=3),
    ),
    "prepare-images": (
        "pictures --size 8 --grey --out a.h5",
        lambda: sk.prepare_images("pictures", size=8, grey=True, out="b.h5"),
    ),
    "fit-spectrum": (
        "train.h5 --k-min 12 --momentum lattice --out a.nc",
        lambda: sk.fit_spectrum("train.h5", k_min=12, momentum="lattice").to_dataset(),
    ),
    "generate": (
        "skild.safetensors --samples 3 --steps 4 --sampler stochastic --order 3 --seed 5 "
        "--out a.h5",
        lambda: sk.load("skild.safetensors").generate(
            3, sampler=sk.Stochastic(n_evals=4, order=3), seed=5
        ),
    ),
    "coarse-grain": (
        "train.h5 --factor 2 --kernel spectral --samples 7 --out a.h5",
        lambda: sk.coarse_grain("train.h5", factor=2, kernel="spectral", samples=7),
    ),
    "sample-exact": (
        "coarse.h5 --factor 4 --samples 7 --draws 2 --seed 3 --out a.h5",
        lambda: sk.sample_exact("coarse.h5", factor=4, samples=7, draws=2, seed=3),
    ),
    "relax": (
        "train.h5 --sweeps 2 --factor 4 --samples 7 --seed 3 --out a.h5",
        lambda: sk.relax("train.h5", sweeps=2, factor=4, samples=7, seed=3),
    ),
    "interpolate": (
        "train.h5 --factor 1.5 --kernel lanczos --samples 7 --out a.h5",
        lambda: sk.interpolate("train.h5", factor=1.5, kernel="lanczos", samples=7),
    ),
    "super-resolve": (
        "skild.safetensors train.h5 --factor 2 --samples 3 --steps 3 --out a.h5",
        lambda: sk.load("skild.safetensors").reconstruct(
            "train.h5", 2, samples=3, sampler=sk.Multistep(3)
        ),
    ),
    "super-resolve ": (
        "skild.safetensors train.h5 --protocol observed --kernel box --factor 2 --samples 3 "
        "--steps 3 --out a.h5",
        lambda: sk.load("skild.safetensors").super_resolve(
            "train.h5", 2, kernel="box", samples=3, sampler=sk.Multistep(3)
        ),
    ),
    "super-resolve  ": (
        "skild.safetensors train.h5 --protocol rescaled --keep 0.4 --factor 2 --samples 2 "
        "--steps 3 --out a.h5",
        lambda: sk.load("skild.safetensors").enlarge(
            "train.h5", 2, keep=0.4, samples=2, sampler=sk.Multistep(3)
        ),
    ),
    "eval-correlators": (
        "truth=train.h5 again=train.h5 --sides 1,3 --out a.nc",
        lambda: sk.eval_correlators(truth="train.h5", again="train.h5", sides=(1, 3)).dataset,
    ),
    "eval-draws": (
        "truth=train.h5 exact=exact.h5 --out a.nc",
        lambda: sk.eval_draws(truth="train.h5", exact="exact.h5").dataset,
    ),
    "eval-images": (
        "a=pictures b=pictures --metrics psnr,ssim --size 12 --bootstrap 200 --out a.nc",
        lambda: (
            sk.eval_images(
                a="pictures", b="pictures", metrics=("psnr", "ssim"), size=12, bootstrap=200
            ).dataset
        ),
    ),
}


@pytest.mark.parametrize("command", CLIENTS)
def test_a_command_gives_what_the_call_gives(command, folder, monkeypatch):
    """Bit for bit."""
    monkeypatch.chdir(folder)
    arguments, call = CLIENTS[command]
    for name in ("a.h5", "b.h5", "a.nc"):
        (folder / name).unlink(missing_ok=True)
    monkeypatch.setattr(sys, "argv", ["skild-physics", command.strip(), *shlex.split(arguments)])
    main()
    is_dataset = arguments.endswith(".nc")
    (same_dataset if is_dataset else same_fields)(folder)("a.nc" if is_dataset else "a.h5", call())


def test_every_command_has_its_function():
    """Of the same name; generate and super-resolve are what a model does."""
    for name in COMMANDS:
        of_models = {"generate": "generate", "super-resolve": "super_resolve"}
        owner = sk.Model if name in of_models else sk
        assert callable(getattr(owner, name.replace("-", "_")))


def test_training_by_command_is_training_by_call(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = to_toml(
        {
            "out": "by-command",
            "data": {"source": "train.h5", "heldout": 8},
            **KINDS["skild"],
            "training": {"steps": 2, "batch_size": 4, "compile": False, "threads": 1}
            | {"precision": "float32"},
        }
    )
    (folder / "small.toml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["skild-physics", "train", "small.toml"])
    main()
    called = sk.train("small.toml", out=folder / "by-call")
    written = sk.load("by-command")
    for one, other in zip(called.network.parameters(), written.network.parameters(), strict=True):
        assert torch.equal(one, other)
