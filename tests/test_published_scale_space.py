"""The process of arXiv 2603.08709 as its released code has it, against plain NumPy and torch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import run
from small_runs import one_thread
from torch.nn import functional as F

from skild_physics.config import load_config, parse_config
from skild_physics.diffusion.betas import BetaSchedule, cosine_betas, linear_betas
from skild_physics.diffusion.sampler import Ancestral
from skild_physics.diffusion.scale_space import DECAYS, ScaleSpace, level_ends
from skild_physics.diffusion.scale_space_reverse import level_start, segments
from skild_physics.models.checkpoint import build_model, load, save_model
from skild_physics.models.objective import ScaleSpaceObjective
from skild_physics.models.published import import_checkpoint

threads = pytest.fixture(autouse=True, scope="module")(one_thread)


def cosine(T):
    """As arXiv 2102.09672 defines it."""
    betas, f = [], lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    for i in range(T):
        betas.append(min(1 - f((i + 1) / T) / f(i / T), 0.999))
    return betas


@pytest.mark.parametrize("T", [10, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_abar_is_the_product_of_one_minus_beta(name, T):
    betas = np.linspace(0.1 / T, 20 / T, T) if name == "linear" else np.array(cosine(T))
    if name == "linear" and T == 10:
        # the last steps of ten would have to lose more than all there is
        with pytest.raises(ValueError, match="between 0 and 1"):
            BetaSchedule(linear_betas(T))
        return
    schedule = BetaSchedule(linear_betas(T) if name == "linear" else cosine_betas(T))
    n = torch.arange(1, T + 1).double()
    np.testing.assert_allclose(torch.exp(-schedule.lam(n / T)), np.cumprod(1 - betas), rtol=1e-9)
    assert float(schedule.lam(0.0)) == 0
    half = (n - 0.5) / T
    np.testing.assert_allclose(schedule.rate(half), -T * np.log1p(-betas), rtol=1e-6)
    for t in (n / T, half, torch.tensor(0.0)):
        np.testing.assert_allclose(schedule.time(schedule.lam(t)), t, atol=1e-9)
    np.testing.assert_allclose(schedule.scaled(3).lam(half), 3 * schedule.lam(half), rtol=1e-12)


def test_few_steps_cannot_have_the_published_betas():
    with pytest.raises(ValueError, match="process: betas must lie between 0 and 1, got 2 of 10"):
        load_config("celeba64-ssd", ("process.T=10",))


def test_abar_at_the_end_is_the_published_one():
    assert float(torch.exp(-BetaSchedule(linear_betas(1000)).lam(1.0))) == pytest.approx(
        4.036e-5, rel=2e-4
    )


# last steps that the released code gives, but for exact multiples, which rounding decides there
ENDS = {
    ("convex-decay", 2.0): {4: (134, 293, 500, 1000), 5: (106, 226, 368, 553, 1000)},
    ("convex-decay", 0.25): {3: (802, 987, 1000), 6: (518, 802, 937, 987, 999, 1000)},
    ("convex-decay", 1.0): {3: (333, 666, 1000), 6: (167, 333, 500, 666, 833, 1000)},
    ("sigmoid", 1.0): {4: (157, 500, 843, 1000), 5: (104, 352, 648, 896, 1000)},
    ("sigmoid", 2.0): {3: (440, 560, 1000), 6: (262, 440, 500, 560, 738, 1000)},
    ("sigmoid", 3.0): {4: (436, 500, 564, 1000), 5: (390, 496, 504, 610, 1000)},
    ("tanh", 1.0): {3: (387, 613, 1000), 6: (259, 387, 500, 613, 741, 1000)},
    ("tanh", 2.0): {4: (159, 500, 841, 1000), 5: (125, 286, 714, 875, 1000)},
    ("tanh", 3.0): {3: (156, 844, 1000), 6: (65, 156, 500, 844, 935, 1000)},
}


@pytest.mark.parametrize(("decay", "gamma"), ENDS)
def test_levels_end_where_those_of_the_released_code_do(decay, gamma):
    assert {kind for kind, _ in ENDS} == {*DECAYS}
    for levels, ends in ENDS[decay, gamma].items():
        assert level_ends(levels, 1000, gamma, decay) == ends


def test_a_power_that_the_schedules_do_not_have():
    with pytest.raises(ValueError, match="gamma of 'tanh' must be at least 1"):
        level_ends(4, 1000, 0.5, "tanh")


class Silence:
    """Noise that is none."""

    def like(self, x):
        return torch.zeros_like(x)


T, SIZES, ENDS_OF_20 = 20, (16, 8, 4), (9, 15, 20)
BETAS = tuple(np.linspace(0.005, 0.4, T).tolist())


def published_space():
    return ScaleSpace(SIZES, ENDS_OF_20, BetaSchedule(BETAS), "bilinear", "cosine", gap=1)


def resized(x, side):
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)


def transposed(y, M, side):
    """The adjoint of the resize of side x side fields, by automatic differentiation."""
    if side == M:
        return y
    with torch.enable_grad():
        x = torch.zeros(*y.shape[:2], side, side, dtype=y.dtype, requires_grad=True)
        (found,) = torch.autograd.grad(resized(x, M), x, y)
    return found


def plain_chain(x, estimate):
    """Means of the published chain, whose index t counts from zero; it ends with x at t = 0."""
    abar = np.cumprod(1 - np.array(BETAS))
    side = [next(M for M, end in zip(SIZES, ENDS_OF_20, strict=True) if t < end) for t in range(T)]
    for t in range(T - 1, 0, -1):
        s = t - 1
        x_0 = estimate(x, t + 1, side[s]).clamp(-1, 1)
        mu, c = abar[s] ** 0.5 * x_0, (abar[t] / abar[s]) ** 0.5
        lower = resized(mu, side[t]) if side[s] != side[t] else mu
        ratio = (1 - abar[s]) / (1 - abar[t])
        x = mu + ratio * c * transposed(x - c * lower, side[t], side[s])
    return x


def test_the_chain_is_the_published_one():
    """The same steps, levels and clipping, and the same fields, where all noise is left out."""
    asked = []

    def estimate(x_n, n, side):
        asked.append((n, x_n.shape[-1], side))
        return 1.5 * torch.sin(3 * F.interpolate(x_n, size=(side, side)) + 0.1 * n)

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    wanted = plain_chain(x, estimate)
    published, asked[:] = list(asked), []
    space = published_space()
    begin = level_start(space, estimate, float(T), 2, None, ends_at=1)

    def clipped(x_n, n, side):
        return estimate(x_n, n, side).clamp(-1, 1)

    found = begin.reverse(x, clipped, Ancestral(T), Silence())
    assert asked == published
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_published_steps_of_a_thousand():
    """A change of level takes the step from n + 1 to n, and the last one ends at 1."""
    space = load_config("celeba64-ssd4").process.space()
    way = segments(space, 1000.0, 3, Ancestral(1000), ends_at=1)
    steps = [step for segment in way for step in segment.steps.tolist()]
    assert steps == list(range(1000, 0, -1))
    assert [segment.steps[-1] for segment in way] == [938, 751, 439, 1]


def test_training_draws_what_the_chain_asks_for():
    space = published_space()
    generator = torch.Generator().manual_seed(0)
    config = load_config("celeba64-ssd4").training
    objective = ScaleSpaceObjective(space, config.model_copy(update={"level_changes": 0.3}))
    for _ in range(300):
        task, n = objective.draw(4, generator)
        if task.end < task.level:
            assert (n == ENDS_OF_20[task.end] + 1).all()
        else:
            low = ENDS_OF_20[task.level - 1] + 1 if task.level else 0
            assert bool(((n > low) & (n <= ENDS_OF_20[task.level])).all())


SMALL = (
    "process.size=16",
    "process.factors=[2]",
    "data.size=16",
    "network.channels=32",
    "network.multipliers=[1,2]",
    "network.blocks=1",
    "network.attention=[8]",
)


def small_model(*overrides, error=False, std=0.1):
    config = load_config("celeba64-ssd", (*SMALL, *overrides))
    torch.manual_seed(0)
    model = build_model(config, ("red", "green", "blue"), *config.process.modes())
    for weight in model.network.parameters():
        torch.nn.init.normal_(weight, std=std)
    variances = (torch.full((16, 16), 0.5, dtype=torch.float64),) if error else ()
    return replace(model, error_variance=variances)


def test_a_configuration_survives_a_checkpoint():
    config = load_config("celeba64-ssd", SMALL)
    assert parse_config(json.loads(json.dumps(config.to_json()))) == config


def test_estimates_are_clipped_where_that_is_asked_for():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        free, clipped = (
            small_model(f"process.clip={clip}", std=0.5).estimate()(x, 751.0, 16)
            for clip in ("false", "true")
        )
    assert 0.1 < (free.abs() > 1).float().mean() < 0.9
    assert torch.equal(clipped, free.clamp(-1, 1))


def test_it_ends_with_x_1():
    """A network that says 0 leaves the noise of the first step, 0.01."""
    model = small_model()
    for weight in model.network.parameters():
        torch.nn.init.zeros_(weight)
    made = model.generate(40, sampler=Ancestral(8), batch_size=40)
    std = float(made.std())
    # of 30720 values
    assert abs(std / 0.01 - 1) < 4.5 / np.sqrt(2 * made.size)


def test_nothing_is_measured_where_nothing_is_drawn():
    heldout = torch.zeros(4, 3, 16, 16)
    assert small_model().calibrated(heldout, 4).error_variance == ()
    assert len(small_model("process.draw=true").calibrated(heldout, 4).error_variance) == 1


def test_drawing_can_be_switched_off(tmp_path):
    save_model(tmp_path / "model.safetensors", small_model("process.draw=true", error=True))
    save_model(tmp_path / "without.safetensors", small_model("process.draw=true"))
    assert len(load(tmp_path).error_variance) == 1
    assert load(tmp_path, draw=False).error_variance == ()
    how = "--samples 2 --steps 5"
    run(f"generate . --no-draw {how} --out a.npz", tmp_path)
    run(f"generate without.safetensors {how} --out b.npz", tmp_path)
    run(f"generate . {how} --out c.npz", tmp_path)
    a, b, c = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in "abc")
    assert (a == b).all()
    assert (a != c).any()
    refused = run("generate bundled --no-draw --samples 2 --out d.npz", tmp_path, code=2)
    assert "--draw: is for models whose fields change their level" in refused.stderr


def test_levels_of_other_ratios():
    """As 64 and 40 of the released code: sides that the network takes."""
    sides = "process.coarse_sides=[10]", "process.levels.gamma=1.0"
    model = small_model("process.factors=[]", *sides)
    assert model.space.sizes == (16, 10)
    made = model.generate(2, sampler=Ancestral(4))
    again = model.reconstruct(made, 1.6, sampler=Ancestral(4))
    assert again.shape == made.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"levels for the factors 1\.6, got 2"):
        model.reconstruct(made, 2)


@pytest.mark.parametrize(
    ("factors", "sides", "said"),
    [("[]", "[16]", "must fall"), ("[]", "[9]", "are to be halved"), ("[2]", "[10]", "not both")],
)
def test_sides_that_do_not_go(factors, sides, said):
    wanted = f"process.factors={factors}", f"process.coarse_sides={sides}"
    with pytest.raises(ValueError, match=said):
        load_config("celeba64-ssd", (*SMALL, *wanted)).check_sizes(16, 16)


@pytest.mark.parametrize("layout", ["state dict", "model and step", "wrapped"])
def test_files_of_the_released_code_are_imported(tmp_path, layout):
    model = small_model()
    weights = model.network.network.state_dict()
    content = {
        "state dict": weights,
        "model and step": {"model": weights, "step": 1_000_000},
        "wrapped": {"model": {f"module.{name}": w for name, w in weights.items()}, "step": 7},
    }[layout]
    torch.save(content, tmp_path / "ema_0.9999_1000000.pt")
    made = import_checkpoint(
        tmp_path / "ema_0.9999_1000000.pt",
        config="celeba64-ssd",
        overrides=SMALL,
        out=tmp_path / "imported",
    )
    assert made.trained_steps == {"model and step": 1_000_000, "wrapped": 7}.get(layout, 0)
    assert made.channels == ("red", "green", "blue")
    found = made.network.network.state_dict()
    assert all(torch.equal(found[name], w) for name, w in weights.items())


def test_class_labels_are_refused(tmp_path):
    weights = small_model().network.network.state_dict() | {"label_emb.weight": torch.ones(10, 8)}
    torch.save(weights, tmp_path / "a.pt")
    refused = run("import-checkpoint a.pt --config celeba64-ssd --out made", tmp_path, code=2)
    assert "a.pt: was trained with 10 class labels (label_emb.weight), which" in refused.stderr
    assert not (tmp_path / "made").exists()


def test_parts_that_share_weights_are_written_and_read(tmp_path):
    """Two levels of the same width have one adapter."""
    model = small_model("network.multipliers=[1,2,2,2]")
    weights = model.network.network.state_dict()
    assert weights["adapters_in.4.weight"] is not weights["adapters_in.2.weight"]
    assert weights["adapters_in.4.weight"].data_ptr() == weights["adapters_in.2.weight"].data_ptr()
    save_model(tmp_path / "model.safetensors", model)
    again = load(tmp_path).network.network
    assert all(torch.equal(again.state_dict()[name], w) for name, w in weights.items())
    assert again.adapters_in["4"] is again.adapters_in["2"]


def test_other_weights_are_refused(tmp_path):
    torch.save({"model": {"all_modules.0.weight": torch.ones(2)}}, tmp_path / "a.pt")
    config = "--config celeba64-ssd --out b"
    assert (
        "no weights named input_blocks.N"
        in run(f"import-checkpoint a.pt {config}", tmp_path, code=2).stderr
    )
    torch.save(small_model().network.network.state_dict(), tmp_path / "a.pt")
    assert (
        "another configuration?" in run(f"import-checkpoint a.pt {config}", tmp_path, code=2).stderr
    )
    assert not (tmp_path / "b" / "model.safetensors").exists()
