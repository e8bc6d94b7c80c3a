"""How steps are computed: chosen by their time, recorded, and without the compiler if it fails."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import small_runs
import torch
from filelock import FileLock, Timeout

from skild_physics.config import parse_config
from skild_physics.config.training import TrainingConfig
from skild_physics.machine import World
from skild_physics.models.checkpoint import load
from skild_physics.training import execution, trainer
from skild_physics.training.execution import Execution, choose, compiling, recorded
from skild_physics.training.run import run
from skild_physics.training.state import load_state
from skild_physics.training.trainer import Trainer

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
ALONE = World(0, 1, torch.device("cpu"))
SCALE_SPACE = {name: small_runs.SCALE_SPACE[name] for name in ("process", "network")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def values(inputs, tmp_path):
    return small_runs.run_values(inputs, tmp_path / "run")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of compiled code of its own; fakes of the compiler leave nothing in it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: name)
    return tmp_path / "cache"


# the choice


@pytest.fixture(autouse=True)
def both_formats(monkeypatch):
    """Also where what "auto" chooses from has been changed, to try the other tests with one."""
    monkeypatch.setattr(execution, "AUTO", ("float32", "bfloat16"))


def seconds_of(speed):
    """A measurement in which ways have these times, and the list of those that were measured."""
    asked = []

    def seconds(ways):
        asked.extend(ways)
        return [speed(way.precision, way.compile, way.threads) for way in ways]

    return seconds, asked


def amx(precision, compiled, threads):
    """Seconds of a step of the compact network on a processor that multiplies bfloat16 fast."""
    one, two = {
        ("float32", False): (0.280, 0.222),
        ("float32", True): (0.176, 0.124),
        ("bfloat16", False): (0.160, 0.140),
        ("bfloat16", True): (0.088, 0.086),
    }[precision, compiled]
    return one if threads == 1 else two


def slow_bfloat16(precision, compiled, threads):
    return (1.0 if precision == "float32" else 4.0) / threads / (2 if compiled else 1)


@pytest.mark.parametrize(
    ("speed", "settings", "expected"),
    [
        # two threads gain nothing: one is robust to neighbours
        (amx, {}, ("bfloat16", True, 1)),
        # not worth compiling
        (amx, {"steps": 100}, ("bfloat16", False, 2)),
        (amx, {"compile": False}, ("bfloat16", False, 2)),
        (amx, {"steps": 100, "compile": True}, ("bfloat16", True, 1)),
        (amx, {"precision": "float32"}, ("float32", True, 2)),
        (amx, {"threads": 1, "compile": False}, ("bfloat16", False, 1)),
        (slow_bfloat16, {}, ("float32", True, 2)),
        # about as fast: the more exact one
        (lambda precision, *_: 1.0 if precision == "float32" else 0.95, {}, ("float32", False, 1)),
        # neighbours take turns on the second core
        (lambda p, c, threads: 0.1 * threads**3, {"compile": False}, ("float32", False, 1)),
        (
            lambda p, compiled, t: np.inf if compiled else 0.3,
            {"steps": 10**6},
            ("float32", False, 1),
        ),
    ],
)
def test_the_fastest_way_is_taken(speed, settings, expected):
    log = []
    seconds, asked = seconds_of(speed)
    found = choose(TrainingConfig(**settings), seconds, 2, 3, log.append)
    assert found == Execution(*expected)
    assert len(log) == 1
    assert str(found) in log[0]
    for name, value in settings.items():
        if name in ("precision", "threads"):
            assert {getattr(way, name) for way in asked} == {value}
    if settings.get("compile") is False:
        assert not any(way.compile for way in asked)


def test_ways_that_cannot_be_the_fastest_are_not_compiled():
    seconds, asked = seconds_of(slow_bfloat16)
    choose(TrainingConfig(), seconds, 4, 1, print)
    assert [way for way in asked if way.compile] == [
        Execution("float32", True, 2),
        Execution("float32", True, 4),
    ]


def test_what_is_said_is_obeyed_unmeasured():
    settings = TrainingConfig(precision="bfloat16", compile=True, threads=3)
    found = choose(settings, lambda ways: pytest.fail("measured"), 2, 1, pytest.fail)
    assert found == Execution("bfloat16", True, 3)


@pytest.mark.parametrize("levels", [False, True])
def test_a_trainer_times_what_it_will_do(values, monkeypatch, levels):
    """Every candidate runs, changes nothing, and the summary names the one that is taken."""
    if levels:
        values |= SCALE_SPACE
    values["training"] |= {"precision": "auto", "threads": "auto", "steps": 4}
    seen = []

    def chosen(settings, seconds, most, lattices, log):
        assert lattices == (3 if levels else 1)
        ways = [Execution("float32", False, 1), Execution("bfloat16", False, 2)]
        times = seconds(ways)
        seen.append(times)
        return ways[1]

    monkeypatch.setattr(trainer, "choose", chosen)
    monkeypatch.setattr(trainer, "REHEARSAL", 0.0)
    made = Trainer(parse_config(values), ALONE, print)
    assert len(seen[0]) == 2
    assert all(0 < each < 10 for each in seen[0])
    assert made.about()[0].endswith("bfloat16, eager, 2 threads")
    assert torch.get_num_threads() == 2
    assert made.dtype == torch.bfloat16
    values["training"] |= {"precision": "bfloat16", "threads": 2}
    plain = Trainer(parse_config(values), ALONE, print)
    for step in range(3):
        assert made.step(step) == plain.step(step)


@pytest.mark.parametrize("kind", ["one lattice", "active modes", "levels"])
def test_examples_are_all_that_is_drawn(values, kind):
    if kind == "active modes":
        values["training"] |= {"snr_threshold": 0.5, "active_multiple": 2}
    if kind == "levels":
        values |= SCALE_SPACE
    objective = Trainer(parse_config(values), ALONE, print).objective
    generator = torch.Generator().manual_seed(0)
    drawn = {objective.draw(4, generator)[0] for _ in range(300)}
    examples = objective.examples(4)
    assert {at for at, _ in examples} == drawn
    assert len(examples) == {"one lattice": 1, "active modes": 4, "levels": 3}[kind]
    assert examples[0][0].N == max(at.N for at in drawn) == 8


# the record


def test_a_record_gives_what_the_settings_leave_open():
    way = Execution("bfloat16", True, 2)
    values = json.loads(json.dumps(way.to_json()))
    assert recorded(values, TrainingConfig()) == way
    settings = TrainingConfig(precision="float32", compile=False, threads=1)
    assert recorded(values, settings) == Execution("float32", False, 1)
    for broken in (None, [], {}, values | {"precision": "int8"}, values | {"threads": 0}):
        assert recorded(broken, TrainingConfig()) is None


def test_a_resumed_run_computes_as_before(values, monkeypatch, tmp_path):
    """Also if it was ended before its first saved state; another run in its place does not."""
    values["training"] |= {"precision": "auto", "compile": "auto", "threads": "auto"}
    config = parse_config(values)
    way = Execution("bfloat16", False, 1)
    choices = iter([way, Execution("float32", False, 1)])
    monkeypatch.setattr(
        trainer,
        "choose",
        lambda settings, *rest: next(choices) if settings.threads == "auto" else way,
    )

    class StopError(Exception):
        pass

    for last in (3, 13):

        def stop(step, loss, last=last):
            if step == last:
                raise StopError

        with pytest.raises(StopError):
            run(config, progress=stop)
    run(config)
    note = json.loads((tmp_path / "run" / "run.json").read_text())
    assert note["execution"] == way.to_json()
    values["training"] |= {"precision": "bfloat16", "threads": 1, "compile": False}
    whole = parse_config({**values, "out": str(tmp_path / "whole")})
    run(whole)
    states = [load_state(tmp_path / name / "state.pt") for name in ("run", "whole")]
    for name, w in states[0]["network"].items():
        assert torch.equal(states[1]["network"][name], w)
    # the format is what a run is, the compiler and the threads are not
    values["training"] |= {"threads": 2}
    log = []
    run(parse_config({**values, "out": str(tmp_path / "whole")}), log=log.append)
    assert "trained already" in log[0]
    run(config, overwrite=True)
    note = json.loads((tmp_path / "run" / "run.json").read_text())
    assert note["execution"]["precision"] == "float32"


def test_training_leaves_the_number_of_threads(values):
    values["training"]["threads"] = 3
    run(parse_config(values))
    assert torch.get_num_threads() == 1


# the compiler


class Failing(torch.nn.Module):
    """What torch.compile returns where its backend fails in a call, the first or a later one."""

    def __init__(self, network, good):
        super().__init__()
        self.network, self.good = network, good

    def forward(self, x, lam):
        self.good -= 1
        if self.good < 0:
            raise ImportError("main.so: file too short\nmany\nlines")
        return self.network(x, lam)


@pytest.mark.parametrize("good", [0, 1, 2, 9])
def test_a_failed_compilation_is_one_line_and_changes_nothing(
    values, monkeypatch, tmp_path, good, cache
):
    """At the first call, in the second part of a step, and in a later step."""
    monkeypatch.setattr(torch, "compile", lambda network, **options: Failing(network, good))
    values["training"] |= {"steps": 8, "accumulate": 2, "threads": 1}
    lines, weights = [], []
    for compile_ in (True, False):
        values["training"]["compile"] = compile_
        values["out"] = str(tmp_path / str(compile_))
        log = []
        weights.append(load(run(parse_config(values), log=log.append)).network.state_dict())
        lines.append(log)
    said = [line for line in lines[0] if "torch.compile" in line]
    assert said == ["training without torch.compile, which failed: main.so: file too short"]
    if good == 0:
        assert lines[0][2].endswith("eager, 1 thread")
    for name, w in weights[1].items():
        assert torch.equal(weights[0][name], w)


def test_a_compiler_that_fails_is_not_chosen(values, monkeypatch, cache):
    monkeypatch.setattr(torch, "compile", lambda network, **options: Failing(network, 0))
    monkeypatch.setattr(execution, "COMPILING", 0.0)
    values["training"] |= {"compile": "auto"}
    log = []
    made = Trainer(parse_config(values), ALONE, log.append)
    assert log[0] == "torch.compile fails: main.so: file too short"
    assert made.about()[0].endswith("float32, eager, 1 thread")


def test_without_a_compiler_there_is_a_line(values, monkeypatch, cache):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("was called"))
    values["training"]["compile"] = True
    log = []
    Trainer(parse_config(values), ALONE, log.append)
    assert log == ["training without torch.compile, which failed: no C++ compiler"]


def test_a_network_that_compiles_is_used_compiled(values, monkeypatch, cache):
    calls = []

    class Compiled(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, lam):
            calls.append(x.shape)
            return self.network(x, lam)

    monkeypatch.setattr(torch, "compile", lambda network, **options: Compiled(network))
    values["training"] |= {"compile": True, "accumulate": 2}
    made = Trainer(parse_config(values), ALONE, print)
    assert calls == [(8, 1, 8, 8)]
    assert made.about()[0].endswith("compiled, 1 thread")
    made.step(0)
    assert calls == [(8, 1, 8, 8)] * 3
    # names of weights are not those of a wrapper
    assert made.state()["network"].keys() == made.network.state_dict().keys()


def test_all_that_a_run_compiles_is_compiled_at_its_start(values, monkeypatch, cache):
    """Later it would be outside of the lock, where processes load each other's half files."""
    seen = []

    class Compiled(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.multiple = network, network.multiple

        def forward(self, *inputs):
            shape = (inputs[0].shape, inputs[2:], torch.is_grad_enabled())
            if shape not in seen:
                with pytest.raises(Timeout):
                    FileLock(cache / "compiling.lock").acquire(timeout=0)
                seen.append(shape)
            return self.network(*inputs)

    monkeypatch.setattr(torch, "compile", lambda network, **options: Compiled(network))
    values |= SCALE_SPACE
    values["training"] |= {"compile": True, "level_changes": 0.5}
    made = Trainer(parse_config(values), ALONE, print)
    assert len(seen) == 3
    for step in range(20):
        made.step(step)
    assert len(seen) == 3


def test_processes_compile_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    log, entered = [], threading.Event()

    def other():
        with compiling(log.append):
            entered.set()

    with compiling(pytest.fail):
        waiting = threading.Thread(target=other)
        waiting.start()
        assert small_runs.wait_until(lambda: log)
        assert not entered.is_set()
    waiting.join(10)
    assert entered.is_set()
    assert log == ["another process is compiling: waiting for it"]


def test_compiled_code_is_kept_in_a_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(execution.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    with compiling(print):
        folder = tmp_path / "skild_physics" / "torchinductor"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o022 == 0
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    # where there is no home to write in
    monkeypatch.setattr(execution.platformdirs, "user_cache_path", lambda name: tmp_path / "file")
    with compiling(print):
        folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
        assert os.stat(folder).st_mode & 0o077 == 0
    assert not folder.startswith(str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")


@pytest.mark.slow
def test_two_processes_compile_at_once(inputs, tmp_path):
    """Really, the same network, from nothing."""
    commands = []
    for name in ("one", "two"):
        values = small_runs.run_values(inputs, tmp_path / name, compile=True)
        path = tmp_path / f"{name}.toml"
        path.write_text(small_runs.to_toml(values))
        command = [sys.executable, "-m", "skild_physics.cli", "train", str(path)]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
        commands.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    said = [command.communicate(timeout=300)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    assert all("compiled, 1 thread" in each and "fail" not in each for each in said), said
    assert sum("waiting for it" in each for each in said) == 1
