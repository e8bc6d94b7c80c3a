"""Numbers of a training go where they are asked to, and change nothing."""

import json
import sys
from types import ModuleType

import pytest
import small_runs

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.training.run import run, trained

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"), samples=64)


@pytest.fixture
def values(inputs, tmp_path):
    values = small_runs.run_values(inputs, tmp_path / "run")
    values["training"] |= {"steps": 4, "checkpoint_every": 2, "evaluate_every": 4}
    values["training"] |= {"precision": "float32", "compile": False, "threads": 1}
    return values


class Writer:
    """As that of TensorBoard."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.closed, self.seen = folder, purge_step, False, []
        Writer.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    def add_scalar(self, name, value, step):
        self.seen.append((name, value, step))


class Run(Writer):
    """As that of wandb."""

    def __init__(self, project, name, dir, resume):
        super().__init__(dir, None)
        self.name = name

    def log(self, numbers, step):
        self.seen += [(name, value, step) for name, value in numbers.items()]


@pytest.fixture(params=["tensorboard", "wandb"])
def service(request, monkeypatch):
    Writer.made = []
    name = {"tensorboard": "torch.utils.tensorboard"}.get(request.param, request.param)
    fake = ModuleType(name)
    fake.SummaryWriter, fake.init = Writer, Run
    monkeypatch.setitem(sys.modules, name, fake)
    return request.param


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_a_callback_gets_the_lines_of_the_file(inputs, tmp_path):
    got = []
    small = ("network.channels=[8]", "network.blocks=[1]", "training.snr_threshold=0.1")
    sk.train(
        "ising64",
        data=sk.generate_ising(16, samples=64),
        steps=2,
        out=tmp_path / "run",
        overrides=(*small, "training.optimizer=adamw"),
        log=lambda numbers, step: got.append((dict(numbers), step)),
    )
    line, heldout = lines_of(tmp_path / "run")
    assert [step for _, step in got] == [2, 2]
    assert got[0][0] == {name: value for name, value in line.items() if name != "step"}
    bands = [got[1][0][f"heldout_loss/{i}"] for i in range(len(heldout["heldout_loss"]))]
    assert bands == heldout["heldout_loss"]


def test_a_run_is_the_same_wherever_its_numbers_go(values, service, tmp_path):
    """Bit for bit, also where it goes on with or without the service."""
    plain = tmp_path / "plain"
    run(parse_config({**values, "out": str(plain)}))
    values["training"]["log"] = service
    config = parse_config(values)

    def stop(step, loss):
        if step == 3:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        trained(config, progress=stop)
    run(config)
    one, other = (folder / "model.safetensors" for folder in (plain, tmp_path / "run"))
    small_runs.assert_equal(*(dict(sk.load(path).network.state_dict()) for path in (one, other)))
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["config"]["training"]
        == (json.loads((plain / "run.json").read_text())["config"]["training"])
    )
    assert [line["loss"] for line in lines_of(plain) if "loss" in line] == [
        line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line
    ]
    first, second = Writer.made
    assert first.closed
    assert second.closed
    losses = {step: value for name, value, step in first.seen + second.seen if name == "loss"}
    assert losses == {
        line["step"]: line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line
    }
    if service == "tensorboard":
        assert (first.purge_step, second.purge_step) == (0, 2)
    del values["training"]["log"]
    assert run(parse_config(values)) == other


def test_a_package_that_is_missing(values, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    values["training"]["log"] = "wandb"
    with pytest.raises(
        sk.InputError, match=r'^training.log = "wandb" needs .*: pip install wandb$'
    ):
        run(parse_config(values))
    assert not (tmp_path / "run").exists()
