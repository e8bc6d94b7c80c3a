"""Configurations: keys and their former names, paths, overrides, and what stands below what."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import run_values, to_toml

from skild_physics.config import load_config, parse_config
from skild_physics.files import InputError
from skild_physics.training.run import _is_this_run

FORMER = {
    "snr_threshold": "live_threshold",
    "active_multiple": "live_multiple",
    "level_changes": "raising",
    "snr": "tau",
}
SKILD = {
    "out": "run",
    "data": {"source": "train.h5"},
    "process": {
        "spectrum": "spectrum.nc",
        "snr": 0.2,
        "schedule": {"kind": "linear", "resolution": 0.5},
    },
    "training": {"snr_threshold": 0.1, "active_multiple": 4},
}
LEVELS = {
    "out": "run",
    "data": {"source": "photographs"},
    "process": {
        "kind": "scale-space",
        "size": 8,
        "basis": "periodic",
        "factors": [2],
        "levels": {"kind": "spectrum", "file": "spectrum.nc", "snr": 0.3},
    },
    "network": {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 1},
    "training": {"level_changes": 0.2},
}
BOTH = pytest.mark.parametrize("values", [SKILD, LEVELS], ids=["skild", "scale-space"])


def former(values):
    """The values under the names that keys had before."""
    if not isinstance(values, dict):
        return values
    return {FORMER.get(key, key): former(value) for key, value in values.items()}


def keys(values):
    if not isinstance(values, dict):
        return set()
    return set(values).union(*map(keys, values.values()))


@BOTH
def test_former_names_of_keys_mean_the_same(values, tmp_path):
    found = []
    for name, each in (("now", values), ("before", former(values))):
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(each))
        found.append(load_config(path))
    assert found[0] == found[1]
    assert found[0].to_json() == found[1].to_json()
    assert keys(former(values)) & set(FORMER.values())
    assert not keys(found[1].to_json()) & set(FORMER.values())


@pytest.mark.parametrize(
    ("section", "now", "text"),
    [
        (("training",), "snr_threshold", "training: give 'snr_threshold' only"),
        (("training",), "active_multiple", "training: give 'active_multiple' only"),
        (("process",), "snr", "process: give 'snr' only"),
    ],
)
def test_a_key_under_both_names_is_refused(section, now, text):
    values = {**SKILD, section[0]: {**SKILD[section[0]], FORMER[now]: 0.1}}
    with pytest.raises(InputError, match=text):
        parse_config(values)


@BOTH
def test_a_run_saved_under_former_names_is_the_same_run(values, tmp_path):
    (tmp_path / "run.toml").write_text(to_toml(values))
    config = load_config(tmp_path / "run.toml")
    saved = former(config.to_json())
    assert _is_this_run(saved, config)
    elsewhere = {**saved, "out": "other", "data": {**saved["data"], "data_dir": "other"}}
    assert _is_this_run(elsewhere, config)
    assert not _is_this_run({**saved, "training": {**saved["training"], "seed": 1}}, config)


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    for name, values in (("skild", SKILD), ("levels", LEVELS)):
        (tmp_path / f"{name}.toml").write_text(to_toml(values))
    skild, levels = (load_config(tmp_path / f"{name}.toml") for name in ("skild", "levels"))
    assert skild.out == tmp_path / "run"
    assert skild.data.source == str(tmp_path / "train.h5")
    assert skild.process.spectrum == tmp_path / "spectrum.nc"
    assert levels.process.levels.file == tmp_path / "spectrum.nc"
    assert levels.data.source == "photographs"
    assert load_config("ising64").out == Path("runs/ising64")


def test_the_configuration_stands_below_what_is_trained():
    code = "import sys, skild_physics.config; print(*sys.modules, sep='\\n')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    above = tuple(f"skild_physics.{room}" for room in ("training", "models", "cli", "quality"))
    assert not [name for name in found.stdout.split() if name.startswith(above)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stepz": 3}}, "training: no key 'stepz', did you mean 'steps'?"),
        ({"training": {"steps": 0}}, "training.steps: "),
        ({"training": {"batch_size": 10, "accumulate": 4}}, "not a multiple of accumulate = 4"),
        ({"typo": 1}, "config: no key 'typo'"),
        ({"network": {"kind": "ncsnpp", "channel": 8}}, "did you mean 'channels'?"),
        ({"network": {"channels": [8, 8], "blocks": [1]}}, "one entry per level"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "linear"}}}, "resolution"),
        ({"process": {"spectrum": "x", "schedule": {"kind": "cubic"}}}, "cubic"),
        ({"process": {"schedule": {"resolution": 2, "kind": "linear"}}}, "give one of spectrum"),
        ({"data": {}}, "data.source"),
        ({"data": {"ensemble": "a.h5"}}, "data: no key 'ensemble'"),
        ({"data": {"source": "a.h5", "heldout": 0}}, "data.heldout"),
        ({"training": {"prediction": "noise"}}, "training.prediction"),
        ({"training": {"snr_threshold": -1}}, "training.snr_threshold"),
        (
            {"training": {"snr_threshold": 0.1, "timesteps": "second-moment"}},
            "needs timesteps = 'uniform'",
        ),
    ],
)
def test_bad_configurations_name_the_key(change, message):
    with pytest.raises(ValueError, match=r"^config: ") as error:
        parse_config({**run_values(Path("inputs"), "run"), **change})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_config_file_with_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'out = "here"\n[data]\nsource = "a.h5"\n[process]\nspectrum = "s.nc"\n'
        '[process.schedule]\nkind = "log-linear"\nlambda_i = -3.75\nlambda_f = -2.0\n'
    )
    config = load_config(path, ("training.steps=7", "training.prediction=eps", "process.k_c=31.2"))
    assert config.training.steps == 7
    assert config.training.prediction == "eps"
    assert config.process.k_c == 31.2
    assert config.out == tmp_path / "here"
    assert config.data.source == str(tmp_path / "a.h5")
    assert math.isclose(float(config.process.schedule.build(32, 0.1).lam(torch.tensor(1.0))), 1e-2)
    for bad, message in (("steps", "section.key"), ("training.stepz=1", "stepz")):
        with pytest.raises(ValueError, match=message):
            load_config(path, (bad,))
    path.write_text("out = [")
    with pytest.raises(ValueError, match=r"run\.toml"):
        load_config(path)
    with pytest.raises(ValueError, match=r"no such file, nor one of .*cifar10-linear"):
        load_config(tmp_path / "missing.toml")
