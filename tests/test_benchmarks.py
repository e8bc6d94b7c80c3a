"""Benchmarks and figures measure what they say, and change nothing in what they measure."""

import ast
import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import small_runs
import torch

from skild_physics.data_gen import IsingParameters, generate
from skild_physics.training import hardware

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for name in ("benchmarks", "paper_figures") for path in ROOT.glob(f"{name}/*.py")
)

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)


def loaded(path):
    spec = spec_from_file_location(f"script_{path.stem}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed_imports(source):
    """Attributes of imported names that a program sets or deletes."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = {
        (each.asname or each.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for each in node.names
    }

    def belongs(node):
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in imported

    set_by_name = [
        node
        for node in nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("setattr", "delattr", "object")
        and node.args
        and belongs(node.args[0])
    ]
    stored = [
        node
        for node in nodes
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and belongs(node)
    ]
    return [ast.unparse(node) for node in stored + set_by_name]


@pytest.mark.parametrize(
    "source",
    [
        "from a.b import trainer as steps\nsteps.losses = other",
        "def f():\n    import a.trainer as module\n    module.keep = lambda: None",
        "import a.b\na.b.c += 1",
        "from a import b\nsetattr(b, 'c', 1)",
        "from a import b\nwith mock.patch.object(b, 'c'):\n    pass",
    ],
)
def test_changes_of_imported_modules_are_found(source):
    assert len(changed_imports(source)) == 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_change_nothing_that_they_import(path):
    assert not changed_imports(path.read_text())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_find_all_that_they_import(path, monkeypatch):
    if path.stem == "wolff":
        pytest.importorskip("peapods")
    monkeypatch.syspath_prepend(path.parent)
    loaded(path)


@pytest.fixture(scope="module")
def network():
    return loaded(ROOT / "benchmarks" / "network.py")


@pytest.fixture(scope="module")
def critical(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("critical")
    return small_runs.make_inputs(folder, L=network.L, samples=network.HELDOUT + 64)


def eager(config):
    return config.model_copy(
        update={"training": config.training.model_copy(update={"compile": False})}
    )


def trainer_of(network, critical, name):
    config = eager(network.configuration(network.VARIANTS[name], critical, 20))
    return network.trainer_of(name, config)


@pytest.mark.parametrize(
    "name",
    [
        "tanh head, cross-entropy",
        pytest.param("Muon, tanh head", marks=small_runs.needs_muon),
    ],
)
def test_a_tanh_head_is_trained_on_the_entropy_of_spins(network, critical, name):
    """Of an untrained network, which gives about nothing, it is ln 2 per spin; that of v is 1."""
    plain = {"tanh head, cross-entropy": "v, as shipped", "Muon, tanh head": "Muon 2e-3"}[name]
    ours, other = (trainer_of(network, critical, each) for each in (name, plain))
    assert ours.step(0).loss == pytest.approx(math.log(2), abs=0.02)
    assert other.step(0).loss == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_every_variant_differs_from_the_first_in_its_first_steps(network, critical):
    """But for what shows later: the average of the weights, and what is done after training."""
    later = {name for name in network.VARIANTS if "ema" in name or "odd" in name}
    seen = {}
    for name in network.VARIANTS:
        trainer = trainer_of(network, critical, name)
        seen[name] = tuple(trainer.step(step).loss for step in range(2))
    same = {
        name
        for name, losses in seen.items()
        if losses in (seen["v, as shipped"], seen["Muon 2e-3"])
    }
    assert same == {"v, as shipped", "Muon 2e-3"} | later


def test_the_plain_step_is_plain(tmp_path, monkeypatch):
    """Default layout, single precision, and an allocator that nothing has changed."""
    training = loaded(ROOT / "benchmarks" / "training.py")
    generate(tmp_path / "64.h5", IsingParameters.planned(64, seed=1), 40)
    kept, plain = [], []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: kept.append(name))
    work = training.build("compact plain", tmp_path)

    def note(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            plain.append(output.is_contiguous() and output.dtype == torch.float32)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    work()
    hook.remove()
    assert plain
    assert all(plain)
    assert not kept
    training.build("compact process", tmp_path)()
    assert kept
