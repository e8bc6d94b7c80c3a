"""Options and parameters that do not apply are refused, and are not written down either."""

import shlex
import sys

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from small_runs import make_inputs, one_thread, to_toml

from skild_physics.cli.main import main
from skild_physics.config import load_config, parse_config
from skild_physics.diffusion.sampler import Multistep, sampler_of
from skild_physics.fields import open_fields
from skild_physics.fields.writing import save
from skild_physics.files import InputError, check_none_given
from skild_physics.models.checkpoint import build_model, load, save_model
from skild_physics.observables.evaluate import eval_correlators

threads = pytest.fixture(autouse=True, scope="module")(one_thread)

SKILD = {"spectrum": "spectrum.nc", "k_c": 3.0, "schedule": {"kind": "linear", "resolution": 0.5}}
WHITE = {"white": {"size": 8, "basis": "periodic"}, "schedule": {"kind": "linear-beta"}}
LEVELS = {"kind": "scale-space", "size": 8, "basis": "periodic", "factors": [2]}
COMPACT = {"channels": [8], "blocks": [1], "patch": 1}
FLEXI = {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 1}
MODELS = {
    "skild": {"process": SKILD, "network": COMPACT},
    "active": {
        "process": SKILD,
        "network": COMPACT,
        "training": {"snr_threshold": 0.1, "active_multiple": 4},
    },
    "sr3": {"process": WHITE, "network": COMPACT, "condition": {"factor": 2}},
    "levels": {"process": LEVELS, "network": FLEXI},
    "ddpm": {"process": LEVELS | {"factors": []}, "network": FLEXI},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of every kind that were never trained, lattices, pictures, a variance map."""
    folder = make_inputs(tmp_path_factory.mktemp("options"), samples=40)
    for name, values in MODELS.items():
        values = {"out": "run", "data": {"source": "train.h5", "heldout": 8}, **values}
        (folder / f"{name}.toml").write_text(to_toml(values))
        config = load_config(folder / f"{name}.toml")
        model = build_model(config, ("spin",), *config.process.modes())
        save_model(folder / f"{name}.safetensors", model)
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    np.save(folder / "map.npy", np.ones((8, 8)))
    fields = rng.normal(size=(9, 8, 8)).astype(np.float32)
    np.save(folder / "stack.npy", fields)
    save(fields, folder / "field.h5")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """The last line of error of a command line that ends with a code."""

    def run(arguments, code=0):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["skild-physics", *shlex.split(arguments)])
        found = 0
        try:
            main()
        except SystemExit as stopped:
            found = stopped.code
        said = capsys.readouterr().err.splitlines()
        assert found == code, said
        return said[-1] if said else ""

    return run


def attributes(path):
    with xr.open_dataset(path, engine="h5netcdf") as data:
        return data.attrs


GENERATE = "generate {}.safetensors --samples 2 --steps 4 --out x.h5"
SUPER = "super-resolve {}.safetensors train.h5 --samples 2 --steps 4 --factor 2 --out x.h5"
FIT = "fit-spectrum {} --out x.nc"
MAP = f"{FIT} --variance-map"
EVAL = "eval-images a=pictures b=pictures --out x.nc --metrics psnr"
REFUSED = [
    (f"{GENERATE} --sampler ancestral --order 2", "skild", "--order goes with multistep"),
    (f"{GENERATE} --sampler ancestral --order 2", "levels", "--order goes with multistep"),
    (f"{GENERATE} --spacing time --last-snr 9", "skild", "--last-snr goes with several --steps"),
    (
        f"{GENERATE} --steps 1 --last-snr 9",
        "skild",
        "--last-snr goes with several --steps, and not with",
    ),
    (f"{GENERATE} --live-threshold 0.1", "levels", "--live-threshold is for active modes"),
    (f"{GENERATE} --live-threshold 0", "ddpm", "--live-threshold is for active modes"),
    (f"{SUPER} --live-threshold 0.1", "sr3", "--live-threshold is for active modes"),
    (f"{SUPER} --live-threshold 0", "sr3", "--live-threshold is for active modes"),
    (f"{SUPER} --live-threshold 0.1", "levels", "--live-threshold is for active modes"),
    *((f"{SUPER} --keep 0.5", kind, "--keep goes with the protocol rescaled") for kind in MODELS),
    (f"{SUPER} --protocol observed --keep 0.5", "skild", "--keep goes with the protocol rescaled"),
    *(
        (f"{SUPER} --downsampling box", kind, "--downsampling goes with the protocol observed")
        for kind in MODELS
    ),
    (f"{SUPER} --protocol rescaled --downsampling box", "skild", "--downsampling goes with the"),
    (f"{SUPER} --size 4", "skild", "--size is for folders of pictures, not for train.h5"),
    ("coarse-grain {} --factor 2 --size 4 --out x.h5", "train.h5", "--size is for folders"),
    ("interpolate {} --factor 2 --size 4 --out x.h5", "stack.npy", "--size is for folders"),
    (f"{MAP} --normalization isotropic", "map.npy", "--normalization is for fields"),
    (f"{MAP} --size 8", "map.npy", "--size is for fields"),
    (f"{MAP} --tile", "map.npy", "--tile is for fields"),
    (f"{MAP} --resize", "map.npy", "--resize is for fields"),
    (f"{MAP} --grey", "map.npy", "--grey is for fields"),
    (f"{MAP} --strict", "map.npy", "--strict is for fields"),
    (f"{MAP} --data-dir y", "map.npy", "--data-dir is for fields"),
    (f"{FIT} --n-samples 9", "stack.npy", "--n-samples goes with --variance-map"),
    (f"{FIT} --resize", "photographs", "--resize is for folders of pictures, not for photographs"),
    ("prepare-images {} --resize --out x.h5", "photographs-test", "--resize is for folders"),
    (f"{EVAL} --resize", "", "--resize of pictures goes with --size"),
    (f"{EVAL} --weights .", "", "--weights is for networks, which no metric here needs"),
    (f"{EVAL},is --metrics fid --bootstrap 200", "", "--bootstrap is for values of every picture"),
    ("eval-correlators a={} --binarize none --clusters", "field.h5", "--clusters is of spins"),
    ("eval-correlators a={} --binarize none --block-spins 1", "field.h5", "--block-spins is of"),
    ("train {}.toml --dry-run --overwrite", "skild", "--overwrite does not go with --dry-run"),
    ("train {}.toml --json", "skild", "--json goes with --dry-run"),
    ("train {}.toml --set training.level_changes=0.1", "skild", "training.level_changes goes with"),
    ("train {}.toml --set training.level_changes=0.1", "ddpm", "training.level_changes goes with"),
    ("train {}.toml --set training.active_multiple=4", "skild", "active_multiple goes with"),
    ("train {}.toml --set process.k_c=3.0", "sr3", "process.k_c goes with"),
    ("train {}.toml --set process.spectrum_kind=fit", "sr3", "process.spectrum_kind goes with"),
    ("train {}.toml --set process.degradation=box", "ddpm", "process.degradation goes with"),
    ("train {}.toml --set process.levels.gamma=0.5", "ddpm", "process.levels goes with"),
    ("train {}.toml --set condition.factor=2", "active", "snr_threshold: is for fields without a"),
    ("reproduce --samples 40000", "", "--samples goes with --retrain"),
    ("reproduce --set training.steps=3", "", "--set goes with --retrain"),
    ("reproduce photographs --samples 40000 --retrain", "", "--samples goes with the case ising"),
    ("reproduce photographs --L 64", "", "--L goes with the case ising"),
    ("reproduce photographs --heldout 1024", "", "--heldout goes with the case ising"),
    ("reproduce photographs --factor 4", "", "--factor goes with the case ising"),
]


@pytest.mark.parametrize(("arguments", "what", "message"), REFUSED)
def test_an_option_that_does_not_apply_is_refused(run, folder, arguments, what, message):
    """Also with the value that is its default."""
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    assert message in run(arguments.replace("{}", what), 2)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before


def test_a_side_of_zero_is_not_the_default(run, tmp_path):
    assert "--L must be at least 3" in run(f"reproduce --L 0 --out {tmp_path}", 2)


COMMON = {"n_evals", "sampler", "spacing", "seed", "process", "basis", "factor", "starting_step"}
OPTIONAL = {"order", "last_snr", "snr_threshold", "snr", "keep", "downsampling_of_input"}
WRITTEN = [
    ("skild", "", {"order": 2, "last_snr": 1.0, "snr_threshold": 0.0, "snr": 0.1}),
    ("active", "", {"order": 2, "last_snr": 1.0, "snr_threshold": 0.1, "snr": 0.1}),
    (
        "active",
        "--order 3 --last-snr 2 --live-threshold 0",
        {"order": 3, "last_snr": 2.0, "snr_threshold": 0.0, "snr": 0.1},
    ),
    (
        "active",
        "--protocol observed --downsampling box --sampler ancestral --spacing time",
        {"snr_threshold": 0.1, "snr": 0.1, "downsampling_of_input": "box"},
    ),
    ("skild", "--steps 1", {"order": 2, "snr_threshold": 0.0, "snr": 0.1}),
    ("sr3", "", {"order": 2, "last_snr": 1.0}),
    ("sr3", "--sampler ancestral --spacing time", {}),
    ("levels", "", {"order": 2, "last_snr": 1.0}),
    ("levels", "--sampler ancestral --spacing log-resolution", {"last_snr": 1.0}),
]


@pytest.mark.parametrize(("kind", "options", "expected"), WRITTEN)
def test_what_does_not_apply_is_not_written(run, folder, kind, options, expected):
    out = folder / "made.h5"
    run(f"{SUPER.format(kind).replace('x.h5', 'made.h5')} --overwrite {options}")
    found = attributes(out)
    assert {name: found[name] for name in OPTIONAL & found.keys()} == expected
    assert found.keys() >= COMMON


@pytest.mark.parametrize(("options", "keep"), [("", 0.25), ("--keep 0.5", 0.5)])
def test_what_the_rescaled_protocol_keeps_is_written(run, folder, options, keep):
    spins = np.sign(np.random.default_rng(0).normal(size=(1, 1, 64, 64)))
    np.save(folder / "large.npy", spins)
    made = "super-resolve bundled large.npy --protocol rescaled --factor 2 --steps 1"
    run(f"{made} --out made.h5 --overwrite {options}")
    found = attributes(folder / "made.h5")
    assert found["keep"] == keep
    assert found["effective_resolution"] == 64 * keep


@pytest.mark.parametrize("kind", ["skild", "levels", "ddpm"])
def test_what_does_not_apply_is_not_written_by_generate(run, folder, kind):
    out = "made.h5 --overwrite --sampler ancestral --spacing time"
    run(GENERATE.format(kind).replace("x.h5", out))
    found = attributes(folder / "made.h5")
    assert OPTIONAL & found.keys() == ({"snr_threshold"} if kind == "skild" else set())


# in Python


def test_only_what_was_given_is_refused():
    check_none_given({"a": None, "b": False, "c": ()}, "never")
    for value in (0, 0.0, "", True, ("x",), "box"):
        with pytest.raises(InputError, match=r"^`b` goes with a$"):
            check_none_given({"a": None, "b": value}, "goes with a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sampler_of("ancestral", order=1), "`order`"),
        (lambda: Multistep(spacing="time", last_snr=1.0), "`last_snr`"),
        (lambda: Multistep(n_evals=1, last_snr=1.0), "`last_snr`"),
        (lambda: open_fields("photographs", resize=True), "`resize`"),
    ],
)
def test_parameters_that_do_not_apply_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_thresholds_of_active_modes(folder):
    assert load(folder / "skild.safetensors").threshold == 0.0
    found = [load(folder / "active.safetensors", snr_threshold=t) for t in (None, 0.0, 0.3)]
    assert [model.threshold for model in found] == [0.1, 0.0, 0.3]
    for kind in ("sr3", "levels", "ddpm"):
        for threshold in (0.0, 0.1):
            with pytest.raises(InputError, match="`snr_threshold` is for active modes"):
                load(folder / f"{kind}.safetensors", snr_threshold=threshold)


def test_clusters_are_of_spins():
    """Of continuous fields beside spins they are left out, as block spins are."""
    rng = np.random.default_rng(0)
    fields = xr.DataArray(rng.normal(size=(20, 8, 8)), dims=("sample", "y", "x"))
    spins = np.sign(fields).astype(np.int8)
    options = {"block_spins": 1, "clusters": True}
    with pytest.raises(InputError, match="`block_spins` is of spins"):
        eval_correlators(a=fields, binarize="none", **options)
    for sources, binarize in (
        ({"a": fields}, "sign"),
        ({"a": spins}, "none"),
        ({"a": spins, "b": fields}, "none"),
    ):
        first, second = eval_correlators(sources, binarize=binarize, **options).datasets
        assert "clusters" in first
        assert second.attrs["block_spin_rounds"] == 1


def test_values_in_checkpoints_are_never_refused(folder):
    """They hold all values, those of other kinds of processes and networks, too."""
    for kind in MODELS:
        values = load_config(folder / f"{kind}.toml").to_json()
        assert parse_config(values).to_json() == values
