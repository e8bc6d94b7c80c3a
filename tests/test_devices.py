"""Training and sampling on a device that is not the CPU, which a machine without one pretends.

The pretended device computes what the CPU does, so its results are those of the CPU, up to the
order in which torch's own gradients of composite operations sum.
"""

from pathlib import Path

import numpy as np
import pretended_gpu
import pytest
import small_runs
import torch
from torch.utils._pytree import tree_map

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.diffusion.noise import SampleNoise
from skild_physics.diffusion.reverse import run
from skild_physics.machine import World
from skild_physics.models import canonical
from skild_physics.models.checkpoint import load, save_model
from skild_physics.networks import CompactUNet, FlexiUNet
from skild_physics.training.data import open_training_fields, training_batch
from skild_physics.training.evaluation import heldout_loss
from skild_physics.training.execution import Execution
from skild_physics.training.graphs import WARM, Graphs, NotCapturedError
from skild_physics.training.state import load_state, save_state
from skild_physics.training.trainer import Trainer

pytestmark = pytest.mark.skipif(
    not pretended_gpu.available, reason="needs torch's devices written in Python"
)
one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)
STEPS = 2
WHITE = {"white": {"size": 8, "basis": "periodic"}, "schedule": {"kind": "linear-beta"}}
CONSISTENT = {"factors": [1.5, 4], "kernels": {"box": 1, "gaussian": 1}, "consistent": True}
KINDS = {
    "skild": {},
    "active modes": {"training": {"snr_threshold": 0.5, "active_multiple": 2}},
    "weighed": {"training": {"shell_weight": True, "timesteps": "second-moment"}},
    "whitened": {"network": {"whitened": True}},
    "conditional": {
        "process": WHITE,
        "condition": {"factor": 2},
        "training": {"prediction": "eps", "accumulate": 2},
    },
    "coarse fields": {
        "condition": {"factors": [1.5, 4], "kernels": {"box": 1, "gaussian": 1}},
        "training": {"accumulate": 2},
    },
    "consistent coarse fields": {"condition": CONSISTENT},
    "canonical coarse fields": {"condition": CONSISTENT | {"canonical": True}},
    "coarse fields, whitened": {
        "condition": {"factors": [1.5, 4], "kernels": {"box": 1, "bicubic": 1}},
        "network": {"whitened": True},
    },
    "scale space": small_runs.SCALE_SPACE,
    "min-snr": small_runs.SCALE_SPACE | {"training": {"min_snr": 5.0}},
    "muon": {
        "network": {"channels": [16, 16], "blocks": [1, 1]},
        "training": {"optimizer": "muon"},
    },
    "published scale space": {
        "process": small_runs.SCALE_SPACE["process"]
        | {"schedule": {"kind": "betas"}, "change_takes": 1, "ends_at": 1, "clip": True},
        # with one channel a group, biases before it would have no gradient but rounding
        "network": {"kind": "guided", "channels": 64, "multipliers": [1, 1], "blocks": 1},
        "training": {"prediction": "x0", "level_changes": 0.5},
    },
    "published": {
        "network": {
            "kind": "ncsnpp",
            "channels": 8,
            "multipliers": [1, 1],
            "blocks": 1,
            "attention": [4],
            "dropout": 0.0,
            "output": "paper",
        }
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def gpu(monkeypatch):
    """The device, while nothing is wrong with how it is used; and what it counts."""
    with pretended_gpu.pretended(monkeypatch) as counts:
        yield counts


def configured(inputs, folder, kind):
    values = small_runs.run_values(inputs, folder / "run", checkpoint_every=1)
    changed = KINDS[kind]
    for name in ("process", "condition"):
        if name in changed:
            values[name] = changed[name]
    network = changed.get("network", {})
    values["network"] = network if "kind" in network else values["network"] | network
    values["training"] |= changed.get("training", {})
    return parse_config(values)


def trainer_on(device, config):
    return Trainer(config, World(0, 1, torch.device(device)), print)


def steps_of(trainer):
    found = [trainer.step(step) for step in range(STEPS)]
    trainer.calibrate(STEPS, 8)
    fields = trainer.heldout.take(torch.arange(8))
    losses = heldout_loss(
        trainer.model(STEPS).network, trainer.objective, trainer.process, fields, 8, trainer.dtype
    )
    return found, losses, trainer.model(STEPS)


def on_cpu(model):
    return {name: w.cpu() for name, w in model.network.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_training_needs_the_cpu_for_nothing_hidden(inputs, tmp_path, monkeypatch, kind):
    config = configured(inputs, tmp_path, kind)
    wanted, wanted_losses, reference = steps_of(trainer_on("cpu", config))
    picture = reference.preview(trainer_on("cpu", config).heldout.take(torch.arange(2)))
    with pretended_gpu.pretended(monkeypatch):
        trainer = trainer_on("gpu", config)
        found, losses, model = steps_of(trainer)
        made = model.preview(trainer.heldout.take(torch.arange(2)).to("gpu"))
        weights = on_cpu(model)
    for one, other in zip(found, wanted, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
    assert losses.loss == pytest.approx(wanted_losses.loss, rel=1e-5)
    for name, w in on_cpu(reference).items():
        torch.testing.assert_close(weights[name], w, rtol=0, atol=2e-5)
    torch.testing.assert_close(made.result, picture.result, rtol=0, atol=1e-3)
    torch.testing.assert_close(made.start, picture.start, rtol=0, atol=1e-5)


FIGURES = Path(__file__).parents[1] / "paper_figures"
SAMPLED = {
    "generate": ("bundled", lambda m, t: m.generate(2, sampler=sk.Multistep(3))),
    "generate, reversed SDE": ("bundled", lambda m, t: m.generate(2, sampler=sk.Stochastic(3))),
    "generate, ancestral": ("bundled", lambda m, t: m.generate(2, sampler=sk.Ancestral(3))),
    "generate, larger": ("bundled", lambda m, t: m.generate(1, L=128, sampler=sk.Multistep(3))),
    "paired": ("bundled", lambda m, t: m.reconstruct(t, 4, sampler=sk.Multistep(3))),
    "observed": (
        "bundled",
        lambda m, t: m.super_resolve(coarse(t), 4, sampler=sk.Multistep(3)),
    ),
    "rescaled": ("bundled", lambda m, t: m.enlarge(t, 2, sampler=sk.Multistep(3))),
    "conditional": (
        FIGURES / "ising64_sr3",
        lambda m, t: m.super_resolve(coarse(t), 4, sampler=sk.Ancestral(3)),
    ),
    "levels": (
        FIGURES / "scale_space" / "ssd4-box.safetensors",
        lambda m, t: m.generate(1, sampler=sk.Stochastic(9)),
    ),
    "levels, paired": (
        FIGURES / "scale_space" / "ssd4-crop.safetensors",
        lambda m, t: m.reconstruct(t, 2, sampler=sk.Ancestral(9)),
    ),
    "levels, observed": (
        FIGURES / "scale_space" / "ssd4-box.safetensors",
        lambda m, t: m.super_resolve(coarse(t), 4, sampler=sk.Multistep(9)),
    ),
    "photographs": (
        "bundled-photographs",
        lambda m, t: m.super_resolve(
            np.arange(3 * 20 * 20, dtype=np.uint8).reshape(1, 3, 20, 20),
            3.2,
            kernel="bicubic",
            sampler=sk.Multistep(3),
        ),
    ),
}


def coarse(truth):
    return sk.coarse_grain(truth, factor=4)


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(64, samples=1, seed=3)


@pytest.mark.parametrize("name", SAMPLED)
def test_every_protocol_samples_on_the_device(truth, monkeypatch, name):
    checkpoint, make = SAMPLED[name]
    wanted = make(sk.load(checkpoint, device="cpu"), truth)
    with pretended_gpu.pretended(monkeypatch) as counts:
        found = make(sk.load(checkpoint, device="gpu"), truth)
    assert found.attrs.keys() == wanted.attrs.keys()
    np.testing.assert_allclose(found.values, wanted.values, rtol=0, atol=2e-3)
    assert counts["launches"] > 100


STARTS = {
    "prior": ("bundled", lambda m: m.prior(64)),
    "diffused": ("bundled", lambda m: m.diffused(64, 4)),
    "observed": ("bundled", lambda m: m.observed(16, 4, "box")),
    "rescaled": ("bundled", lambda m: m.rescaled(64, 2, 0.5)),
    "conditional": (FIGURES / "ising64_sr3", lambda m: m.diffused(64, 4)),
    "levels": (FIGURES / "scale_space" / "ssd4-box.safetensors", lambda m: m.prior(64)),
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [(name, sk.Stochastic(9 if name == "levels" else 5)) for name in STARTS]
    + [("prior", sk.Multistep(5)), ("prior", sk.Ancestral(5))],
)
def test_the_loop_never_waits_for_the_device(gpu, name, sampler):
    """Only for what is handed on: the start, the result and what the result is to agree with."""
    checkpoint, starting = STARTS[name]
    start = starting(sk.load(checkpoint, device="gpu"))
    side = 16 if name == "observed" else 64
    given = torch.ones(1, 1, side, side)
    for _ in range(2):
        gpu.clear()
        run(start, given, sampler, SampleNoise(0, [0]))
    assert gpu["reads"] <= 4


@pytest.mark.parametrize("kind", ["skild", "coarse fields", "scale space", "muon"])
def test_a_step_waits_for_the_device_once(inputs, tmp_path, gpu, kind):
    """For its losses and the norm of its gradient, before it changes the weights."""
    trainer = trainer_on("gpu", configured(inputs, tmp_path, kind))
    trainer.step(0)
    gpu.clear()
    trainer.step(1)
    assert gpu["reads"] == 1


@pytest.mark.parametrize("kind", ["consistent coarse fields", "canonical coarse fields"])
def test_a_step_that_is_compiled_is_so_with_all_its_parts(inputs, tmp_path, monkeypatch, kind):
    called = []

    def spied(work):
        return lambda *parts: called.append((work, len(parts[0]))) or work(*parts)

    monkeypatch.setattr(torch, "compile", lambda network, **how: spied(network))
    monkeypatch.setattr(canonical, "_compiled", spied)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = configured(inputs, tmp_path, kind)
    with pretended_gpu.pretended(monkeypatch):
        plain, trainer = (
            Trainer(config, World(0, 1, torch.device("gpu")), print, Execution("float32", on, 1))
            for on in (False, True)
        )
        called.clear()
        first = plain.step(0)
        assert not called
        assert trainer.step(0) == first
        moves = [canonical._forward, canonical._backward]
        works = [trainer.network, *(moves if kind.startswith("canonical") else [])]
        assert [work for work, _ in called] == works
        # for other numbers of fields all would be compiled anew
        steps_of(trainer)
    assert {fields for _, fields in called} == {trainer.part}


class Replayed(Graphs):
    """What a CUDA graph does: the first work of a name is done again on tensors of its own."""

    def __init__(self, counts):
        super().__init__(torch.device("gpu"))
        self.counts, self.held = counts, {}

    def __call__(self, name, work, *inputs):
        work, own, done = self.held.setdefault(name, (work, [each.clone() for each in inputs], []))
        for one, given in zip(own, inputs, strict=True):
            assert one.device == given.device
            one.copy_(given)
        before = dict(self.counts)
        output = work(*own)
        done.append(1)
        if len(done) > WARM:
            for what in ("reads", "uploads"):
                assert self.counts[what] == before.get(what, 0), f"a graph holds no {what}"
        return output


CAPTURED = [
    *("active modes", "weighed", "whitened", "coarse fields", "coarse fields, whitened", "muon"),
    *("consistent coarse fields", "canonical coarse fields"),
]


@pytest.mark.parametrize("kind", CAPTURED)
def test_steps_that_are_captured_are_the_same(inputs, tmp_path, monkeypatch, kind):
    config = configured(inputs, tmp_path, kind)
    plain = trainer_on("cpu", config)
    with pretended_gpu.pretended(monkeypatch) as counts:
        trainer = trainer_on("gpu", config)
        trainer._graphs = graphs = Replayed(counts)
        for step in range(4):
            one, other = trainer.step(step), plain.step(step)
            assert one.loss == pytest.approx(other.loss, rel=1e-4)
            assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        # the optimiser, and each lattice that was drawn
        assert len(graphs.held) > 1
        assert max(len(done) for _, _, done in graphs.held.values()) > WARM
        weights = on_cpu(trainer.model(4))
    # the CPU sums over fewer fields, and AdamW divides small gradients by their size
    close = 2e-3 if kind == "canonical coarse fields" else 5e-4
    for name, w in on_cpu(plain.model(4)).items():
        torch.testing.assert_close(weights[name], w, rtol=0, atol=close)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_known_to_serve_is_captured(inputs, tmp_path, monkeypatch, kind):
    trainer = trainer_on("cpu", configured(inputs, tmp_path, kind))
    assert trainer._graphs is None
    monkeypatch.setattr(trainer, "world", World(0, 1, torch.device("cuda")))
    assert (trainer._capturing() is not None) == (kind in ("skild", *CAPTURED))
    monkeypatch.setattr(trainer, "world", World(0, 2, torch.device("cuda")))
    assert trainer._capturing() is None


def test_of_given_networks_those_that_are_known_are_captured(inputs, tmp_path, monkeypatch):
    config = configured(inputs, tmp_path, "skild")
    channels = {"channels": (8,), "blocks": (1,), "patch": 2}
    frozen = CompactUNet(**channels)
    frozen.stem.weight.requires_grad_(False)
    for network, known in (
        (CompactUNet(**channels), True),
        (FlexiUNet(16, **channels), False),
        (frozen, False),
    ):
        trainer = Trainer(config, World(0, 1, torch.device("cpu")), print, network=network)
        monkeypatch.setattr(trainer, "world", World(0, 1, torch.device("cuda")))
        assert (trainer._capturing() is not None) == known


@pytest.mark.parametrize("which", ["passes", "optimizer"])
def test_steps_that_cannot_be_captured_go_on_without(inputs, tmp_path, gpu, capsys, which):
    class Refused(Graphs):
        def __call__(self, name, work, *inputs):
            if (name == "optimizer") == (which == "optimizer"):
                raise NotCapturedError("refused\nbecause")
            return work(*inputs)

    config = configured(inputs, tmp_path, "coarse fields")
    plain, trainer = trainer_on("gpu", config), trainer_on("gpu", config)
    trainer._graphs = Refused(torch.device("gpu"))
    for step in range(2):
        one, other = trainer.step(step), plain.step(step)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
    assert trainer._graphs is None
    assert capsys.readouterr().out.count("training without CUDA graphs: refused\n") == 1
    weights = on_cpu(trainer.model(2))
    for name, w in on_cpu(plain.model(2)).items():
        torch.testing.assert_close(weights[name], w, rtol=0, atol=1e-6)


@pytest.mark.parametrize("symmetry", ["torus", "mirror", "none"])
@pytest.mark.parametrize("values", ["spins", "real numbers"])
def test_batches_of_the_device_are_those_of_the_cpu(gpu, symmetry, values):
    """Bit for bit, from fields that are held there."""
    fields = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
    if values == "real numbers":
        fields = fields.astype(np.float32) / 100 - 1.2
    made = []
    for device in ("cpu", "gpu"):
        held, _ = open_training_fields(
            fields, heldout=8, symmetry=symmetry, device=torch.device(device), basis="periodic"
        )
        gpu.clear()
        batch = training_batch(held, 16, torch.Generator().manual_seed(0), slice(4, 12))
        assert batch.device.type == device
        assert gpu["reads"] == 0
        made.append(batch.cpu())
    assert torch.equal(*made)


@pytest.mark.parametrize("kind", ["skild", "scale space", "muon"])
def test_saved_on_the_device_loaded_anywhere(inputs, tmp_path, gpu, kind):
    """A resumed run is the same run, and its model the same model."""
    config = configured(inputs, tmp_path, kind)
    trainer = trainer_on("gpu", config)
    trainer.step(0)
    trainer.calibrate(1, 16)
    save_model(tmp_path / "model.safetensors", trainer.model(1))
    about = {"step": 1, "running_loss": 0.0, "config": "{}"}
    save_state(tmp_path / "state.pt", about | on_host(trainer.state()))
    second = trainer.step(1)
    for device in ("cpu", "gpu"):
        again = trainer_on(device, config)
        again.load(load_state(tmp_path / "state.pt"))
        assert again.step(1).loss == pytest.approx(second.loss, rel=1e-5)
    small_runs.assert_equal(
        on_cpu(load(tmp_path / "model.safetensors", device="cpu")),
        on_cpu(load(tmp_path / "model.safetensors", device="gpu")),
    )


def on_host(state):
    """What torch.save would make of tensors of a device that it knows."""
    return tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, state)
