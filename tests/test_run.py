"""A run: what it needs, what it refuses before it writes anything, and the files it leaves."""

import json
import math
import sys

import pytest
import small_runs
import torch

import skild_physics as sk
from skild_physics import machine
from skild_physics.cli.main import main
from skild_physics.config import parse_config
from skild_physics.machine import World
from skild_physics.models.checkpoint import load
from skild_physics.networks import CompactUNet
from skild_physics.training.evaluation import BANDS
from skild_physics.training.run import dry_run, run
from skild_physics.training.state import load_state
from skild_physics.training.trainer import Trainer

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = small_runs.make_inputs(tmp_path_factory.mktemp("inputs"), samples=400)
    sk.generate_ising(12, samples=30, seed=1, out=folder / "other.h5").close()
    return folder


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


def test_files_of_a_run_are_json(values, tmp_path):
    """Few held-out fields have a loss without an error bar; a gradient that is never clipped."""

    def strictly(text):
        def refused(constant):
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(text, parse_constant=refused)

    values["data"]["heldout"] = 4
    values["training"] |= {"clip": math.inf, "steps": 5}
    said = []
    run(parse_config(values), log=said.append)
    assert (
        strictly((tmp_path / "run" / "run.json").read_text())["config"]["training"]["clip"] is None
    )
    lines = [strictly(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (shown,) = [line for line in lines if "heldout_loss" in line]
    assert shown["heldout_loss_stderr"] == [None] * BANDS
    (line,) = [line for line in said if "held-out loss" in line]
    assert "(no error bar from 4 fields)" in line
    # the configuration itself survives
    assert load(tmp_path / "run").config.training.clip == math.inf
    run(parse_config(values))


def test_dry_run_writes_nothing(values, tmp_path, monkeypatch, capsys):
    found = dry_run(parse_config(values))
    path = tmp_path / "run.toml"
    path.write_text(small_runs.to_toml(values))
    monkeypatch.setattr(sys, "argv", ["skild-physics", "train", str(path), "--dry-run", "--json"])
    main()
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == found.keys()
    for numbers in (found, printed):
        assert all(0 < value < math.inf for value in numbers.values())
    network = CompactUNet((8,), (1,), 1)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert found["hours"] == pytest.approx(20 * found["seconds_per_step"] / 3600)
    assert found["fields_per_second"] == pytest.approx(16 / found["seconds_per_step"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.toml"]


def test_runs_keep_freed_memory_and_trainers_alone_do_not(values, monkeypatch):
    calls = []
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: calls.append(name))
    config = parse_config(values)
    Trainer(config, ALONE, print)
    assert not calls
    dry_run(config, steps=1)
    assert len(calls) == 1
    run(config)
    assert len(calls) == 2


def test_a_saved_state_has_the_size_that_a_dry_run_says(values, tmp_path):
    """Weights, their average and two moments."""
    values["network"] = {"channels": [64], "blocks": [1]}
    values["training"]["steps"] = 2
    said = dry_run(parse_config(values))["state_gib"] * 2**30
    run(parse_config(values))
    assert (tmp_path / "run" / "state.pt").stat().st_size == pytest.approx(said, rel=0.1)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("data", {"source": "other.h5"}, r"N = 8.*other\.h5 have L = 12"),
        ("data", {"heldout": 400}, r"data.heldout must be .* less than the 400 items"),
        ("network", {"channels": [8] * 5, "blocks": [1] * 5}, "multiples of 16, got L = 8"),
        ("training", {"snr_threshold": 0.1, "active_multiple": 3}, r"active_multiple.*got 3"),
        ("process", {"spectrum": "missing.nc"}, "no such file"),
    ],
)
def test_inputs_that_do_not_fit(values, inputs, tmp_path, section, change, message):
    """Nothing is written, and no run is discarded for one that cannot be."""
    change = {
        key: str(inputs / value) if key in ("source", "spectrum") else value
        for key, value in change.items()
    }
    values[section] = {**values[section], **change}
    with pytest.raises(ValueError, match=message) as error:
        run(parse_config(values), overwrite=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_of_one_size_has_no_smaller_lattices(values, tmp_path):
    values["network"] = {"kind": "ncsnpp", "channels": 8, "multipliers": [1, 2], "blocks": 1}
    values["training"] |= {"snr_threshold": 0.1, "active_multiple": 4, "steps": 2}
    for output in ("paper", "orthonormal"):
        values["network"]["output"] = output
        if output == "paper":
            with pytest.raises(ValueError, match=r"active_multiple: .* multiples of 8, got 4"):
                run(parse_config(values))
            assert not (tmp_path / "run").exists()
        else:
            run(parse_config(values))


def test_nan_stops_the_run_and_keeps_the_state(values, tmp_path):
    values["training"] |= {
        "learning_rate": 1e30,
        "warmup_steps": 0,
        "clip": 1e30,
        "checkpoint_every": 1,
    }
    out = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"at step 1, n = \d+\.\d; .*state\.pt keeps"):
        run(parse_config(values))
    assert load_state(out / "state.pt")["step"] == 1
    assert load(out).trained_steps == 1
    assert json.loads((out / "run.json").read_text())["config"] == parse_config(values).to_json()

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (out / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [1]
