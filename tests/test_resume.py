"""Runs: interrupted, killed, damaged, shared by processes, and still the same run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from small_runs import CLOSE, assert_equal

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.diffusion.loss import LossSecondMomentSteps
from skild_physics.models.checkpoint import load
from skild_physics.training import run
from skild_physics.training.state import load_state, previous

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
train = run.run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    small_runs.warm_up()
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


@pytest.fixture(scope="module", autouse=True)
def torchrun(request, inputs, tmp_path_factory):
    """The values of a run under torchrun, and what this says once it is stopped on its way.

    It starts before the first test, since each of its three processes must import torch.
    """
    if not any("torchrun" in item.name for item in request.session.items):
        yield
        return
    folder = tmp_path_factory.mktemp("torchrun")
    values = small_runs.run_values(inputs, folder / "run", steps=100)
    path = folder / "run.toml"
    path.write_text(small_runs.to_toml(values))
    options = ["--standalone", "--nproc_per_node=2", "-m", "skild_physics.cli", "train", str(path)]
    command = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def stop():
        # three processes import torch beside other tests
        saved = small_runs.wait_until((folder / "run" / "state.pt").exists, seconds=300)
        command.send_signal(signal.SIGTERM)
        printed, said = command.communicate(timeout=120)
        assert saved, f"no state after five minutes: {said}"
        return command.returncode, printed, said

    with ThreadPoolExecutor(1) as pool:
        yield values, pool.submit(stop)
    command.kill()


@pytest.fixture(autouse=True)
def fast_pictures(monkeypatch):
    """Drawing them takes longer than training here."""

    def touch(figure, path):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr("skild_physics.plots.samples_figure", lambda rows, title: None)
    monkeypatch.setattr("skild_physics.plots.save_figure", touch)


def at(step, action):
    """A progress callback that does something once a step is done."""

    def progress(done, loss):
        if done == step:
            action()

    return progress


def send(number):
    return partial(os.kill, os.getpid(), number)


def metrics(out):
    """Lines without what differs from machine to machine."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    varying = {"fields_per_second", "peak_memory_gib"}
    return [{key: line[key] for key in line.keys() - varying} for line in lines]


def assert_same_run(a, b):
    """All that a run leaves, but for the name of its folder and for how fast it went."""
    states = [load_state(out / "state.pt") for out in (a, b)]
    configs = [json.loads(state.pop("config")) for state in states]
    assert configs[0].pop("out") != configs[1].pop("out")
    assert configs[0] == configs[1]
    assert_equal(*states)
    models = [load(out) for out in (a, b)]
    assert models[0].trained_steps == models[1].trained_steps == states[0]["step"]
    assert_equal(*(model.network.state_dict() for model in models))
    assert_equal(*(model.errors() for model in models))
    averaged = {name: w for name, w in states[0]["average"].items() if name != "n_averaged"}
    weights = models[0].network.state_dict()
    assert_equal(averaged, {f"module.{name}": w for name, w in weights.items()})
    assert metrics(a) == metrics(b)
    assert not list(b.glob(".*"))


NCSNPP = {
    "network": {
        "kind": "ncsnpp",
        "channels": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [4],
        "dropout": 0.3,
        "output": "paper",
    },
    "training": {"prediction": "eps", "accumulate": 2, "batch_size": 8},
}


MUON = {
    "network": {"channels": [16], "blocks": [1], "patch": 1},
    "training": {"optimizer": "muon", "weight_decay": 0.1},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"accumulate": 1}},
        {"training": {"timesteps": "second-moment", "evaluate_every": 6}},
        {"training": {"timesteps": "second-moment", "accumulate": 2}},
        {"training": {"snr_threshold": 0.5, "active_multiple": 4, "weight_decay": 0.1}},
        {"training": {"precision": "bfloat16"}},
        {"training": {"precision": "float16"}},
        pytest.param(MUON, marks=small_runs.needs_muon),
        NCSNPP,
        small_runs.SCALE_SPACE,
    ],
    ids=[
        *["uniform", "second-moment", "accumulated", "live", "bfloat16", "float16", "muon"],
        *["ncsnpp, dropout", "scale space"],
    ],
)
def test_interrupted_training_equals_uninterrupted_bit_for_bit(
    values, tmp_path, monkeypatch, changes
):
    # importance sampling begins once every bin has a history
    few = partial(LossSecondMomentSteps, bins=4, history=2)
    monkeypatch.setattr("skild_physics.training.trainer.LossSecondMomentSteps", few)
    values |= {part: changes[part] for part in ("process", "network") if part in changes}
    values["training"] |= changes["training"]
    whole = []
    config = parse_config({**values, "out": str(tmp_path / "whole")})
    train(config, progress=lambda step, loss: whole.append((step, loss)))
    assert [step for step, _ in whole] == list(range(1, 21))

    config, out, seen = parse_config(values), tmp_path / "run", {}
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def stop():
        raise KeyboardInterrupt

    stops = {
        4: (send(signal.SIGTERM), SystemExit, 4),
        5: (send(signal.SIGTERM), SystemExit, 5),
        8: (stop, KeyboardInterrupt, 5),
        12: (send(signal.SIGINT), KeyboardInterrupt, 12),
        17: (stop, KeyboardInterrupt, 15),
    }
    for step, (action, error, saved) in stops.items():

        def progress(done, loss, step=step, action=action):
            seen[done] = loss
            at(step, action)(done, loss)

        log = []
        with pytest.raises(error) as stopped:
            train(config, progress=progress, log=log.append)
        if error is SystemExit:
            assert stopped.value.code == 128 + signal.SIGTERM
        assert load_state(out / "state.pt")["step"] == saved
        assert load(out).trained_steps == saved
        if saved == step:
            assert f"after step {step}, which is saved" in log[-1]
        if step == 12:
            with (out / "metrics.jsonl").open("a") as lines:
                lines.write('{"step": 3')
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    # a signal at a step that is saved anyway saves it once
    assert load_state(previous(out / "state.pt"))["step"] == 12
    train(config, progress=lambda step, loss: seen.update({step: loss}))
    assert sorted(seen.items()) == whole
    assert_same_run(tmp_path / "whole", out)
    assert [line["step"] for line in metrics(out) if "loss" in line] == [5, 10, 15, 20]

    train(config, progress=lambda step, loss: pytest.fail("trained again"), log=log.append)
    assert log[-1].endswith("trained already, 20 steps")
    # from another working directory the same files have other paths
    source = Path(config.data.source)
    data = config.data.model_copy(
        update={"source": f"{source.parent}/../{source.parent.name}/{source.name}"}
    )
    moved = config.model_copy(update={"out": out / ".." / out.name, "data": data})
    train(moved, progress=lambda step, loss: pytest.fail("trained again"))


def test_a_second_signal_ends_a_run_at_once(values, tmp_path):
    def twice():
        # the handler may have to wait while the thread that reads ahead has the interpreter
        noting = signal.getsignal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert small_runs.wait_until(lambda: signal.getsignal(signal.SIGINT) is not noting)
        signal.raise_signal(signal.SIGINT)
        small_runs.wait_until(lambda: False, 10)

    # shells let what they start in the background ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(parse_config(values), progress=at(3, twice))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The finished run of the unchanged values."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_show", lambda trainer, step, lines, log: None)
        train(parse_config(small_runs.run_values(inputs, out)))
    # held-out losses are no part of what these tests change
    return out


def resumed_like(whole, config, log=None):
    """Finish a run, and compare it with the uninterrupted one."""
    lines = [] if log is None else log
    train(config, log=lines.append)
    kept = [line for line in (config.out / "metrics.jsonl").open() if "heldout" not in line]
    (config.out / "metrics.jsonl").write_text("".join(kept))
    assert_same_run(whole, config.out)


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def test_a_broken_state_falls_back_to_the_previous_one(values, whole):
    config = parse_config(values)
    newest, older = config.out / "state.pt", config.out / "state.previous.pt"
    for damage in (cut, flip, lambda data: b"", lambda data: None):
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=at(12, send(signal.SIGINT)), overwrite=True)
        assert [load_state(path)["step"] for path in (newest, older)] == [12, 10]
        content = damage(newest.read_bytes())
        newest.unlink() if content is None else newest.write_bytes(content)
        log = []
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=at(13, send(signal.SIGINT)), log=log.append)
        if content is not None:
            assert log[0].startswith(f"{newest}: not a readable training state")
            assert "\n" not in log[0]
        assert log[-2].endswith("going on from step 10")
        # what takes the place of the broken one has a good predecessor
        assert [load_state(path)["step"] for path in (newest, older)] == [13, 10]
    resumed_like(whole, config)


def test_nothing_is_started_over_without_being_asked(values, whole, tmp_path):
    config = parse_config(values)
    newest, older = config.out / "state.pt", config.out / "state.previous.pt"
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=at(12, send(signal.SIGINT)))
    states = newest.read_bytes(), older.read_bytes()
    newest.write_bytes(cut(states[0]))
    older.write_bytes(flip(states[1]))
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"not a readable training state.*overwrite=True"):
        train(config)
    newest.write_bytes(states[0])
    before[newest] = states[0]
    values["training"]["seed"] = 1
    with pytest.raises(ValueError, match=r"another configuration.*overwrite=True"):
        train(parse_config(values))
    assert {p: p.read_bytes() for p in config.out.rglob("*") if p.is_file()} == before

    # a broken newest state hides no other configuration
    newest.write_bytes(cut(states[0]))
    older.write_bytes(states[1])
    with pytest.raises(ValueError, match="another configuration"):
        train(parse_config(values))


def test_overwriting_discards_everything_of_the_old_run(values, whole, tmp_path):
    out = tmp_path / "run"
    other = json.loads(json.dumps(values))
    other["training"] |= {"seed": 1, "checkpoint_every": 4, "evaluate_every": 7}
    with pytest.raises(KeyboardInterrupt):
        train(parse_config(other), progress=at(15, send(signal.SIGINT)))
    assert len(list((out / "samples").iterdir())) == 2
    config = parse_config(values)

    def look():
        left = {path.name for path in out.iterdir()}
        assert left == {"run.json", "metrics.jsonl", ".skild-physics"}
        assert (out / "metrics.jsonl").read_text() == ""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=at(1, look), overwrite=True)
    resumed_like(whole, config)
    assert [path.name for path in (out / "samples").iterdir()] == ["0000020.png"]
    assert json.loads((out / "run.json").read_text())["config"] == config.to_json()


def test_a_model_from_elsewhere_is_not_overwritten(values, whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    imported = (whole / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(imported)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"model\.safetensors: is not of a run"):
            train(parse_config(values), overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == imported


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "samples/mine.png"])
def test_what_no_run_made_is_never_replaced(values, tmp_path, name):
    out = tmp_path / "run"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not of a run of training"):
            train(parse_config(values), overwrite=overwrite)
    assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
    assert (out / name).read_text() == "mine"


def test_pictures_beside_those_of_a_run_are_kept(values, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    mine = tmp_path / "run" / "samples" / "mine.png"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"mine\.png: is not of a run"):
        train(parse_config(values), overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_models_of_earlier_steps_are_kept(values, whole, tmp_path):
    """The same ones whether a run was interrupted or not; what is kept is no part of a run."""
    values["training"]["keep_every"] = 8
    with pytest.raises(KeyboardInterrupt):
        train(parse_config(values), progress=at(9, send(signal.SIGINT)))
    out = tmp_path / "run"
    assert [path.name for path in (out / "kept").iterdir()] == ["0000008.safetensors"]
    interrupted = load(out / "kept" / "0000008.safetensors")
    assert interrupted.trained_steps == 8
    values["training"]["keep_every"] = 4
    train(parse_config(values))
    names = [f"{step:07d}.safetensors" for step in (8, 12, 16, 20)]
    assert sorted(path.name for path in (out / "kept").iterdir()) == names
    last, final = load(out / "kept" / names[-1]), load(out)
    for w, other in zip(last.network.parameters(), final.network.parameters(), strict=True):
        assert torch.equal(w, other)
    assert last.trained_steps == 20
    for w, other in zip(final.network.parameters(), load(whole).network.parameters(), strict=True):
        assert torch.equal(w, other)
    # a run of its own, uninterrupted
    values["out"] = str(tmp_path / "other")
    train(parse_config(values))
    again = load(tmp_path / "other" / "kept" / names[0])
    for w, other in zip(again.network.parameters(), interrupted.network.parameters(), strict=True):
        assert torch.equal(w, other)

    mine = tmp_path / "other" / "kept" / "mine.safetensors"
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.safetensors: is not of a run"):
        train(parse_config(values), overwrite=True)
    mine.unlink()
    values["training"] |= {"keep_every": None, "steps": 5}
    train(parse_config(values), overwrite=True)
    assert not (tmp_path / "other" / "kept").exists()


def test_two_trainings_in_one_folder_are_refused(values, tmp_path):
    def second():
        with ThreadPoolExecutor(1) as pool:
            refused = pytest.raises(ValueError, match="another process is writing it")
            with refused:
                pool.submit(train, parse_config(values)).result()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parse_config(values), progress=at(1, second))


def test_a_finished_state_has_its_model(values, whole, tmp_path, monkeypatch):
    """Whatever dies between the two files, and whoever deletes the model."""
    config, out = parse_config(values), tmp_path / "run"
    writes = []

    def dying(save):
        def write(*arguments):
            writes.append(save)
            # the second file of the last step
            if len(writes) == 8:
                raise KeyboardInterrupt
            save(*arguments)

        return write

    with monkeypatch.context() as patch:
        for name in ("save_model", "save_state"):
            patch.setattr(run, name, dying(getattr(run, name)))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed_like(whole, config)
    (out / "model.safetensors").unlink()
    resumed_like(whole, config)
    (out / "model.safetensors").write_bytes(flip((whole / "model.safetensors").read_bytes()))
    resumed_like(whole, config)


@pytest.mark.parametrize("changed", ["train.h5", "spectrum.nc"])
def test_other_inputs_of_the_same_name_are_refused(inputs, tmp_path, changed):
    own = shutil.copytree(inputs, tmp_path / "inputs")
    config = parse_config(small_runs.run_values(own, tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=at(7, send(signal.SIGINT)))
    before = (tmp_path / "run" / "state.pt").read_bytes()
    others = tmp_path / "others"
    others.mkdir()
    sk.generate_ising(8, samples=200, seed=2, out=others / "train.h5").close()
    sk.fit_spectrum(others / "train.h5").save(others / "spectrum.nc")
    (others / changed).replace(own / changed)
    with pytest.raises(ValueError, match="was trained on other fields or another spectrum"):
        train(config)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


# processes


def started(folder, values, *options, **environment):
    path = folder / "run.toml"
    path.write_text(small_runs.to_toml(values))
    return small_runs.start(folder, "train", path, *options, **environment)


def test_killed_and_stopped_at_random_moments(values, tmp_path):
    """kill -9, SIGTERM and SIGINT, most of them while a state is written."""
    values["training"] |= {"checkpoint_every": 1, "steps": 40}
    train(parse_config({**values, "out": str(tmp_path / "whole")}))
    out, rng = tmp_path / "run", np.random.default_rng(0)
    lines = out / "metrics.jsonl"

    def written():
        # the line of a step is written before its state
        return lines.read_text().count('"loss"') if lines.exists() else 0

    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    kill, term, interrupt = codes
    for number in (kill, term, kill, interrupt, kill):
        goal = written() + rng.integers(2, 4)
        command = started(tmp_path, values)
        assert small_runs.wait_until(lambda goal=goal: written() >= goal)
        time.sleep(rng.uniform(0, 0.02))
        command.send(number)
        code, printed, said = command.end()
        assert code == codes[number], said
        assert printed == ""
        assert "Traceback" not in said
        state = out / "state.pt"
        reached = load_state(state if state.exists() else previous(state))["step"]
        assert goal - 1 <= reached < 40
        if number == term:
            assert f"stopped by SIGTERM after step {reached}, which is saved" in said
        if number == interrupt:
            assert said.splitlines()[-1].startswith("Error: interrupted")
    code, printed, said = started(tmp_path, values).end()
    assert (code, printed) == (0, f"{out / 'model.safetensors'}\n")
    assert f"going on from step {reached}" in said
    assert_same_run(tmp_path / "whole", out)


def test_a_full_disk_keeps_what_was_saved(values, whole, tmp_path):
    config, out = parse_config(values), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=at(13, send(signal.SIGINT)))
    size = (out / "state.pt").stat().st_size
    code, printed, said = started(tmp_path, values, file_limit=size // 2).end()
    assert (code, printed) == (1, "")
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"Error: {out / 'state.pt'}: cannot be written")
    assert load_state(out / "state.pt")["step"] == 13
    assert not list(out.glob(".*"))
    resumed_like(whole, config)


def ranks(folder, values, environments=({}, {})):
    """The processes that torchrun would start, with what they need to find each other."""
    size = len(values)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    for i in range(size):
        (folder / str(i)).mkdir()
    return [
        started(folder / str(i), values[i], RANK=str(i), LOCAL_RANK=str(i), **meet, **own)
        for i, own in zip(range(size), environments, strict=True)
    ]


def assert_close_run(a, b, close):
    """The same numbers but for the order of sums."""
    lines = metrics(a), metrics(b)
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    for one, other in zip(*lines, strict=True):
        for key, value in one.items():
            np.testing.assert_allclose(
                other[key], value, rtol=close.norm if "norm" in key else close.loss
            )
    for part in ("network", "average"):
        weights = [load_state(out / "state.pt")[part] for out in (a, b)]
        for name, w in weights[0].items():
            torch.testing.assert_close(weights[1][name], w, rtol=0, atol=close.weight)


@pytest.mark.parametrize("precision", CLOSE)
def test_processes_train_as_one_does(values, tmp_path, precision):
    """The losses of all fields, in order, are what importance sampling goes by."""
    values["training"] |= {"accumulate": 2, "timesteps": "second-moment", "clip": 0.2}
    values["training"]["precision"] = precision
    train(parse_config({**values, "out": str(tmp_path / "whole")}))
    # were it to write anything, it would be here; the model at the end it must find
    other = {**values, "out": str(tmp_path / "other")}
    (tmp_path / "other").mkdir()
    for name in ("run.json", "model.safetensors"):
        shutil.copy2(tmp_path / "whole" / name, tmp_path / "other")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "other").iterdir()}
    found = [command.end() for command in ranks(tmp_path, [values, other])]
    assert [code for code, *_ in found] == [0, 0], found
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "other").iterdir()}
    assert after == before
    assert found[0][1] == f"{tmp_path / 'run' / 'model.safetensors'}\n"
    assert " on 2 processes" in found[0][2]
    assert found[1][1:] == ("", "")
    assert_close_run(tmp_path / "whole", tmp_path / "run", CLOSE[precision])
    states = [load_state(tmp_path / name / "state.pt")["steps"] for name in ("whole", "run")]
    assert torch.equal(states[0]["seen"], states[1]["seen"])
    rtol = {"float32": 1e-3, "bfloat16": 5e-2}[precision]
    torch.testing.assert_close(states[0]["losses"], states[1]["losses"], rtol=rtol, atol=0)


def test_processes_train_levels_as_one_does(values, tmp_path):
    """On a small field the levels above it have no gradient, on any process."""
    values |= {part: small_runs.SCALE_SPACE[part] for part in ("process", "network")}
    values["training"] |= small_runs.SCALE_SPACE["training"]
    train(parse_config({**values, "out": str(tmp_path / "whole")}))
    found = [command.end() for command in ranks(tmp_path, [values, values])]
    assert [code for code, *_ in found] == [0, 0], found
    assert_close_run(tmp_path / "whole", tmp_path / "run", CLOSE["float32"])


def test_torchrun_is_stopped_and_goes_on(torchrun, tmp_path):
    values, ended = torchrun
    code, printed, said = ended.result()
    assert code != 0
    assert printed == ""
    out = Path(values["out"])
    reached = load_state(out / "state.pt")["step"]
    assert 5 <= reached < values["training"]["steps"]
    assert said.count("stopped by SIGTERM") == said.count(" on 2 processes") == 1
    assert f"stopped by SIGTERM after step {reached}, which is saved" in said
    train(parse_config({**values, "out": str(tmp_path / "whole")}))
    found = [command.end() for command in ranks(tmp_path, [values, values])]
    assert [code for code, *_ in found] == [0, 0], found
    assert f"going on from step {reached}" in found[0][2]
    assert_close_run(tmp_path / "whole", out, CLOSE["float32"])


@pytest.mark.slow
def test_a_process_whose_compiler_fails_trains_with_the_others(values, tmp_path):
    """It has no compiler, the other one has."""
    train(parse_config({**values, "out": str(tmp_path / "whole")}))
    values["training"]["compile"] = True
    found = [command.end() for command in ranks(tmp_path, [values, values], [{}, {"PATH": ""}])]
    assert [code for code, *_ in found] == [0, 0], found
    assert "compiled, 1 thread" in found[0][2]
    assert_close_run(tmp_path / "whole", tmp_path / "run", CLOSE["float32"])
