"""Benchmarks and figures measure what they say, as users of the library like any other."""

import ast
import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
from torch import nn

import skild_physics as sk
from skild_physics import kspace, machine
from skild_physics.diffusion.adaptive import active_size
from skild_physics.diffusion.integrators import step_grid
from skild_physics.diffusion.ising_posterior import IsingPosterior
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, linear_to_resolution
from skild_physics.observables.exact import BETA_CRITICAL

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for name in ("benchmarks", "paper_figures") for path in ROOT.glob(f"{name}/*.py")
)

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)


@pytest.fixture(scope="module", autouse=True)
def beside_each_other():
    """As Python finds the modules beside a script that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("benchmarks", "paper_figures"):
            patch.syspath_prepend(ROOT / folder)
        yield


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


def imported(source):
    """Full names of all that a program imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_use_the_library_not_the_command_line(path):
    names = list(imported(path.read_text()))
    assert names
    assert not [name for name in names if f"{name}.".startswith("skild_physics.cli.")]
    # nor what a module keeps to itself
    assert not [name for name in names if name.startswith("skild_physics") and "._" in name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_find_all_that_they_import(path):
    if path.stem == "wolff":
        pytest.importorskip("peapods")
    loaded(path)


@pytest.fixture(scope="module")
def arithmetic():
    return loaded(ROOT / "benchmarks" / "arithmetic.py")


def test_flops_are_counted_as_by_hand(arithmetic):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x, lam):
            return self.convolution(x)

    assert arithmetic.flops_per_field(Network(), 3, 8) == 2 * 3 * 5 * 9 * 64


ENLARGE = Process(torch.ones(128, 128), linear_to_resolution(128, 32, 9, 0.1), "periodic")
GENERATE = {
    128: Process(torch.ones(128, 128), linear_to_resolution(128, 0.9, 9, 0.1), "periodic"),
    32: Process(torch.ones(32, 32), LinearSchedule(137.7294, 1.57, 5), "cosine", k_c=3.0),
}


@pytest.mark.parametrize(
    ("process", "spacing", "last_snr", "threshold", "low", "high"),
    [
        (ENLARGE, "time", 30.0, 0.01, 1.1, 1.3),
        (ENLARGE, "time", 30.0, 0.1, 1.3, 1.8),
        (GENERATE[128], "time", 30.0, 0.01, 1.6, 2.4),
        (GENERATE[128], "time", 30.0, 0.1, 1.6, 2.4),
        (GENERATE[32], "time", 30.0, 0.01, 1.5, 2.4),
        (GENERATE[32], "time", 30.0, 0.1, 1.6, 2.4),
        (GENERATE[128], "log-resolution", 30.0, 0.01, 1.9, 2.4),
        (GENERATE[128], "log-resolution", 3.0, 0.01, 2.4, 3.0),
        (GENERATE[128], "log-resolution", 3.0, 0.1, 2.7, 3.4),
        (GENERATE[32], "log-resolution", 3.0, 0.1, 2.7, 3.4),
    ],
)
def test_arithmetic_saved(arithmetic, process, spacing, last_snr, threshold, low, high):
    steps = step_grid(process, process.T, 40, spacing, last_snr)
    saved = arithmetic.arithmetic_saved(process, steps, threshold)
    assert low < saved < high
    sides = [active_size(process, n, threshold) for n in steps[:-1].tolist()]
    assert saved == pytest.approx(process.N**2 / np.mean(np.square(sides)))


def test_nothing_is_saved_while_every_mode_is_active(arithmetic):
    steps = step_grid(ENLARGE, 5.0, 4, "time")
    assert arithmetic.arithmetic_saved(ENLARGE, steps) == 1


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


def test_processes_that_are_compared_differ_in_the_process_alone():
    """Those called published have the schedules of CIFAR-10; all end in noise."""
    processes = loaded(ROOT / "paper_figures" / "processes.py")
    configurations = {name: processes.configuration(name, 30) for name in processes.PROCESSES}
    first, *others = configurations.values()
    for config in others:
        assert config.model_copy(update={"out": first.out, "process": first.process}) == first
    for name, shipped in (
        ("linear, theta 5 (published)", "cifar10-linear"),
        ("log-linear, k_c 31.2 (published)", "cifar10-log-linear"),
    ):
        ours, theirs = configurations[name].process, sk.load_config(shipped).process
        assert (ours.schedule, ours.k_c) == (theirs.schedule, theirs.k_c)
    for config in configurations.values():
        process = config.process.build(torch.ones(32, 32), "periodic")
        assert float(process.largest_snr(process.T)) < 1e-4
    assert {*processes.OVER_TRAINING} < {*configurations}


def test_the_plain_step_is_plain(tmp_path, monkeypatch):
    """Default layout, single precision, and an allocator that nothing has changed."""
    training = loaded(ROOT / "benchmarks" / "training.py")
    sk.generate_ising(64, samples=40, seed=1, out=tmp_path / "64.h5").close()
    kept, plain = [], []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: kept.append(name))
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


def test_exact_means_lose_less_as_a_canonical_ensemble():
    """At R = 48, from averages of 4 x 4 spins that they do not know; not far from the network's."""
    excess = loaded(ROOT / "benchmarks" / "excess.py")
    truth = sk.generate_ising(64, samples=2, seed=5)
    mmse, (network, to_first_order, canonical) = excess.measured(
        [sk.load("bundled")], truth.values, 48.0, truth.attrs["beta"], 60, block=4
    )
    assert 0.05 < mmse.mean() < 0.12
    assert 0.003 < to_first_order.mean() < 0.007
    assert abs(canonical.mean()) < 0.6 * to_first_order.mean()
    assert abs(network.mean()) < 0.003


def test_exact_targets_are_means_of_what_fits_the_noise_and_the_sums_of_blocks():
    exact = loaded(ROOT / "benchmarks" / "exact_targets.py")
    model = sk.load("bundled")
    truth = sk.generate_ising(64, samples=2, seed=5).values
    fields = torch.as_tensor(truth, dtype=torch.float32)[:, None]
    x_0 = kspace.forward(fields, "periodic")

    def averages(each):
        return each.reshape(2, 16, 4, 16, 4).mean(dim=(2, 4))

    for block in (0, 4):
        objective = exact.ExactTargets(model, BETA_CRITICAL, block, (30.0, 50.0), sweeps=20)
        at, n = objective.draw(2, torch.Generator().manual_seed(0))
        resolution = model.process.resolution(n, model.snr)
        assert bool(((resolution >= 30) & (resolution <= 50)).all())
        known = model.process.N // block if block else None
        assert [None, *objective.conditions.all][int(at.numbers[0])] == (known and ("box", known))
        alpha, sigma = (each.float() for each in model.process.marginal(n[:, None]))
        noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
        x_n = alpha * x_0 + sigma * noise
        found = objective.means(at, fields, n)(x_n)
        if block:
            torch.testing.assert_close(averages(found), averages(fields), rtol=0, atol=1e-6)
        long = IsingPosterior(BETA_CRITICAL, 400)
        for i in range(2):
            one = slice(i, i + 1)
            mean = long.given(model.process, x_n[one], float(n[i]), truth[one], block=block or None)
            mean = torch.as_tensor(mean.mean).float()
            away = float((found[i] - mean).square().mean())
            assert away < 0.45 * float((fields[i] - mean).square().mean())
    fields_themselves = exact.ExactTargets(model, BETA_CRITICAL, 4, (30.0, 50.0), sweeps=0)
    assert fields_themselves.means(at, fields, n) is None
