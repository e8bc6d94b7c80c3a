"""A GPU against the CPU: sampling, training, what is saved on one and loaded on the other.

Both compute in float32, on a GPU with its matrix units' TF32 where torch uses that by itself, in
convolutions: it keeps 10 bits, so an output of the network is off by about 1e-3 of its size.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import run
from skild_physics.machine import World, default_device, peak_memory
from skild_physics.models.checkpoint import load, save_model
from skild_physics.models.objective import field_noise
from skild_physics.training.data import open_training_fields, training_batch
from skild_physics.training.state import load_state, save_state
from skild_physics.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
FIGURES = Path(__file__).parents[1] / "paper_figures"
SPACE = FIGURES / "scale_space"
L = 16
LAW = {"size": L, "C": 4.7, "k0_squared": 3.0, "alpha": 0.875, "basis": "periodic"}
SKILD = {"law": LAW, "k_c": 3.0, "schedule": {"kind": "linear", "resolution": 0.5}}
WHITE = {"white": {"size": L, "basis": "periodic"}, "schedule": {"kind": "linear-beta"}}
LEVELS = {"kind": "scale-space", "size": L, "basis": "periodic", "factors": [2]}
KINDS = {
    "skild": {"process": SKILD},
    "active modes": {"process": SKILD, "training": {"snr_threshold": 0.1, "active_multiple": 4}},
    "weighed": {
        "process": SKILD,
        "training": {"shell_weight": True, "timesteps": "second-moment"},
    },
    "conditional": {"process": WHITE, "condition": {"factor": 2}, "training": {"accumulate": 2}},
    "coarse fields": {
        "process": SKILD,
        "condition": {
            "factors": [1.5, 4],
            "kernels": {"box": 1, "gaussian": 1},
            "consistent": True,
            "canonical": True,
        },
    },
    "levels": {
        "process": LEVELS,
        "network": {"kind": "flexi", "channels": [16, 16], "blocks": [1, 1], "patch": 1},
        "training": {"level_changes": 0.5},
    },
    "published": {
        "process": SKILD,
        "network": {
            "kind": "ncsnpp",
            "channels": 16,
            "multipliers": [1, 2],
            "blocks": 1,
            "attention": [8],
            "dropout": 0.0,
        },
    },
}


def spins(side, samples, seed=0):
    """Patches of aligned spins under noise: large scales and small ones."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(samples, side // 4, side // 4)).repeat(4, axis=1).repeat(4, axis=2)
    return np.sign(coarse + 0.7 * rng.normal(size=(samples, side, side))).astype(np.int8)


def configured(folder, kind, **training):
    changed = KINDS[kind]
    values = {
        "out": str(folder / "run"),
        "data": {"source": "spins", "heldout": 16, "symmetry": "torus", "basis": "periodic"},
        "network": {"channels": [16, 16], "blocks": [1, 1], "patch": 1},
        "training": {
            "steps": 20,
            "batch_size": 16,
            "optimizer": "muon",
            "precision": "float32",
            "compile": False,
            "threads": 1,
            "warmup_steps": 0,
        },
    }
    values |= {name: each for name, each in changed.items() if name != "training"}
    values["training"] |= changed.get("training", {}) | training
    return parse_config(values)


def trainer_on(device, config):
    fields = sk.open(spins(L, 200), basis="periodic")
    return Trainer(config, World(0, 1, torch.device(device)), print, fields=fields)


def on_cpu(network):
    return {name: w.cpu() for name, w in network.state_dict().items()}


def away(found, wanted):
    """Root mean square of a difference over that of what is wanted."""
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def test_the_gpu_is_what_is_used_by_default():
    assert default_device().type == "cuda"
    assert next(sk.load("bundled").network.parameters()).device.type == "cuda"


STARTS = {
    "prior": ("bundled", lambda m: m.prior(64), None),
    "all modes": ("bundled", lambda m: m.prior(64), None),
    "larger": ("bundled", lambda m: m.prior(128), None),
    "diffused": ("bundled", lambda m: m.diffused(64, 4), 64),
    "observed": ("bundled", lambda m: m.observed(16, 4, "box"), 16),
    "rescaled": ("bundled", lambda m: m.rescaled(64, 2, 0.5), 64),
    "photographs": ("bundled-photographs", lambda m: m.diffused(64, 4), 64),
    "photographs, observed": ("bundled-photographs", lambda m: m.observed(20, 3.2, "bicubic"), 20),
    "conditional": (FIGURES / "ising64_sr3", lambda m: m.diffused(64, 4), 64),
    "levels": (SPACE / "ssd4-box.safetensors", lambda m: m.prior(64), None),
    "levels, diffused": (SPACE / "ssd4-crop.safetensors", lambda m: m.diffused(64, 2), 64),
    "one level": (SPACE / "ddpm.safetensors", lambda m: m.prior(64), None),
}
CASES = [(name, sk.Stochastic(10 if "level" in name else 5)) for name in STARTS] + [
    ("prior", sk.Multistep(5)),
    ("prior", sk.Ancestral(5)),
    ("levels", sk.Ancestral(10)),
]


@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_sampling_is_that_of_the_cpu(name, sampler, monkeypatch):
    """In full float32; errors of single rounding grow over the evaluations by a hundred at most."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    checkpoint, starting, side = STARTS[name]
    made = []
    for device in ("cpu", "cuda"):
        options = {"snr_threshold": 0.0} if name == "all modes" else {}
        model = load(checkpoint, device=device, **options)
        if side is None:
            given = torch.empty(2, len(model.channels), 0, 0)
        else:
            given = torch.from_numpy(spins(64, 2 * len(model.channels))).float()
            given = given.view(2, -1, 64, 64)[..., :side, :side]
        made.append(run(starting(model), given, sampler, SampleNoise(0, [0, 1])))
    assert away(made[1].start, made[0].start) < 1e-5
    assert away(made[1].result, made[0].result) < 2e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_verbs_run_as_they_come(precision):
    """Fields of a bf16 or TF32 network are near the same; few signs differ."""
    model = sk.load("bundled", precision=precision)
    made = model.generate(4, sampler=sk.Multistep(10))
    wanted = sk.load("bundled", device="cpu").generate(4, sampler=sk.Multistep(10))
    assert made.dtype == np.float32
    assert np.mean(np.sign(made.values) == np.sign(wanted.values)) > 0.9
    coarse = sk.coarse_grain(sk.open(spins(64, 2), basis="periodic"), factor=4)
    fine = model.super_resolve(coarse, 4, sampler=sk.Multistep(10))
    assert fine.consistency_residual < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_cpu(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = configured(tmp_path, kind, optimizer="adamw")
    ours, theirs = trainer_on("cuda", config), trainer_on("cpu", config)
    ours.network.load_state_dict(on_cpu(theirs.network))
    for step in range(3):
        found, wanted = ours.step(step), theirs.step(step)
        assert found.loss == pytest.approx(wanted.loss, rel=1e-3)
        assert found.gradient_norm == pytest.approx(wanted.gradient_norm, rel=2e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_learns(tmp_path, kind, precision):
    trainer = trainer_on("cuda", configured(tmp_path, kind, precision=precision))
    assert trainer.fields.device.type == "cuda"
    losses = [trainer.step(step).loss for step in range(20)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert peak_memory(torch.device("cuda")) > 2**20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_hold_the_same_steps(tmp_path, kind, precision):
    """Over the whole of a run, whose learning rate rises and falls."""
    config = configured(
        tmp_path, kind, steps=24, warmup_steps=4, precision=precision, learning_rate=3e-4
    )
    ours, theirs = trainer_on("cuda", config), trainer_on("cuda", config)
    held, theirs._graphs = ours._graphs, None
    assert (held is None) == (kind in ("levels", "conditional", "published"))
    theirs.network.load_state_dict(ours.network.state_dict())
    steps = [(ours.step(step), theirs.step(step)) for step in range(24)]
    assert ours._graphs is held, "nothing failed"
    if held is not None:
        assert held.count > 1
    for found, wanted in steps:
        assert found.loss == pytest.approx(
            wanted.loss, rel=1e-3 if precision == "float32" else 0.03
        )
    if precision == "float32":
        averages = [on_cpu(each.average.module) for each in (ours, theirs)]
        # a GPU adds in any order: two runs without graphs were apart by up to 0.008
        for name, w in averages[0].items():
            assert away(w, averages[1][name]) < 0.03


def test_noise_is_that_of_the_cpu():
    """Bit for bit."""
    keys, shape = [0, 2**63, 2**64 - 1], (3, 65, 67)
    made = [field_noise(keys, shape, torch.device(each)).cpu() for each in ("cpu", "cuda")]
    assert torch.equal(*made)


@pytest.mark.parametrize("symmetry", ["torus", "mirror", "none"])
def test_batches_are_those_of_the_cpu(symmetry):
    fields, made = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8), []
    for device in ("cpu", "cuda"):
        held, _ = open_training_fields(
            fields, heldout=8, symmetry=symmetry, device=torch.device(device), basis="periodic"
        )
        made.append(training_batch(held, 16, torch.Generator().manual_seed(0)).cpu())
    assert torch.equal(*made)


@pytest.mark.parametrize("kind", ["skild", "levels", "conditional"])
def test_saved_on_the_gpu_loaded_anywhere(tmp_path, kind):
    """A resumed run is the same run, and goes on with the CPU, too."""
    config = configured(tmp_path, kind)
    trainer = trainer_on("cuda", config)
    trainer.step(0)
    trainer.calibrate(1, 16)
    save_model(tmp_path / "model.safetensors", trainer.model(1))
    about = {"step": 1, "running_loss": 0.0, "config": "{}"}
    save_state(tmp_path / "state.pt", about | trainer.state())
    second = trainer.step(1)
    again = trainer_on("cuda", config)
    again.load(load_state(tmp_path / "state.pt"))
    assert again.step(1).loss == pytest.approx(second.loss, rel=1e-5)
    on_host = trainer_on("cpu", config)
    on_host.load(load_state(tmp_path / "state.pt"))
    assert np.isfinite(on_host.step(1).loss)
    weights = [load(tmp_path / "model.safetensors", device=each) for each in ("cpu", "cuda")]
    for name, w in on_cpu(weights[0].network).items():
        assert torch.equal(w, on_cpu(weights[1].network)[name])


def test_a_run_is_interrupted_and_goes_on(tmp_path):
    """From the library's own call, with everything that it writes on the way."""
    overrides = (
        *(
            "network.channels=[16]",
            "network.blocks=[1]",
            "training.batch_size=16",
            "data.heldout=16",
        ),
        *("training.snr_threshold=0.1", "training.active_multiple=4", "data.symmetry=torus"),
        *("training.checkpoint_every=5", "training.compile=false", "training.precision=bfloat16"),
    )
    fields = sk.open(spins(L, 200), basis="periodic")

    def train(steps):
        config = sk.load_config("ising64", (*overrides, f"training.steps={steps}"))
        values = config.to_json()
        values["process"] = SKILD
        values["out"] = str(tmp_path / "run")
        return sk.train(parse_config(values), data=fields)

    model = train(10)
    assert model.trained_steps == 10
    assert train(10).trained_steps == 10
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert model.generate(2, sampler=sk.Multistep(4)).shape == (2, L, L)
