"""Models of every kind behind one interface: what each can, and what it says that it cannot."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import small_runs
import torch
import xarray as xr

import skild_physics as sk
from skild_physics.config import parse_config
from skild_physics.fields import open_fields
from skild_physics.files import InputError
from skild_physics.models.checkpoint import build_model, load, save_model

one_thread = pytest.fixture(scope="module", autouse=True)(small_runs.one_thread)

L = 32
LAW = {"size": L, "C": 0.5, "k0_squared": 3.0, "alpha": 0.9, "basis": "periodic"}
SKILD = {"law": LAW, "schedule": {"kind": "linear", "resolution": 0.5}, "k_c": 3.0}
WHITE = {"white": {"size": L, "basis": "periodic"}, "schedule": {"kind": "linear-beta"}}
SPACE = {
    "kind": "scale-space",
    "size": L,
    "basis": "periodic",
    "degradation": "box",
    "factors": [2],
}
COMPACT = {"channels": [8], "blocks": [1], "patch": 2}
FLEXI = {"kind": "flexi", "channels": [8, 8], "blocks": [1, 1], "patch": 2}
COARSE = {"factors": [1.5, 8], "kernels": {"box": 1, "gaussian": 1}}
KINDS = {
    "SKILD": {"process": SKILD, "network": COMPACT},
    "conditional SKILD": {"process": SKILD, "network": COMPACT, "condition": {"factor": 2}},
    "SKILD of any coarse field": {"process": SKILD, "network": COMPACT, "condition": COARSE},
    "SR3": {"process": WHITE, "network": COMPACT, "condition": {"factor": 2}},
    "scale space": {"process": SPACE, "network": FLEXI},
    "DDPM": {"process": SPACE | {"factors": []}, "network": FLEXI},
}
CAN = {
    "SKILD": ("generate", "reconstruct", "super_resolve", "enlarge"),
    "conditional SKILD": ("reconstruct", "super_resolve"),
    "SKILD of any coarse field": ("generate", "reconstruct", "super_resolve", "enlarge"),
    "SR3": ("reconstruct", "super_resolve"),
    "scale space": ("generate", "reconstruct", "super_resolve"),
    "DDPM": ("generate",),
}
VERBS = CAN["SKILD"]
ABLE = [(kind, verb) for kind, verbs in CAN.items() for verb in verbs]
UNABLE = [(kind, verb) for kind in KINDS for verb in VERBS if (kind, verb) not in ABLE]
BATCH = 3


def model_of(parts, channels=("spin",)):
    """An untrained model whose network says something."""
    config = parse_config({"out": ".", "data": {"source": "none"}, **parts})
    torch.manual_seed(1)
    made = build_model(config, channels, *config.process.modes())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for w in made.network.parameters():
            w.add_(0.03 * torch.randn(w.shape, generator=generator))
    made.network.to(memory_format=torch.channels_last).eval()
    return made


@pytest.fixture(scope="module")
def models():
    return {kind: model_of(parts) for kind, parts in KINDS.items()}


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(L, samples=10, seed=2)


@pytest.fixture(scope="module")
def given(truth):
    """What every verb is given; of a larger ensemble, which numbers its fields."""
    fields = truth[3:7]
    return {
        "generate": 4,
        "reconstruct": fields,
        "super_resolve": sk.coarse_grain(fields, factor=2),
        "enlarge": fields,
    }


def ask(model, verb, what, **options):
    factor = () if verb == "generate" else (2,)
    chosen = {"sampler": sk.Multistep(4), "seed": 5, "batch_size": BATCH, **options}
    return getattr(model, verb)(what, *factor, **chosen)


@pytest.mark.parametrize(("kind", "verb"), ABLE)
def test_what_a_model_can(models, given, kind, verb):
    model = models[kind]
    made = ask(model, verb, given[verb])
    side = 2 * L if verb == "enlarge" else L
    assert made.dims == ("sample", "y", "x")
    assert made.shape == (4, side, side)
    assert made.dtype == np.float32
    assert np.isfinite(made.values).all()
    assert float(made.std()) > 0.01
    protocols = {"reconstruct": "paired", "super_resolve": "observed", "enlarge": "rescaled"}
    assert made.protocol == protocols.get(verb, "generation")
    assert made.attrs.items() >= {"sampler": "multistep", "n_evals": 4, "seed": 5}.items()
    if verb == "generate":
        assert "start" not in made.coords
        assert made["sample"].values.tolist() == [0, 1, 2, 3]
        return
    # the fields keep their numbers in the ensemble, and where they started
    assert made["sample"].values.tolist() == [3, 4, 5, 6]
    assert made["start"].dims == made.dims
    assert made["start"].shape == made.shape
    assert not np.array_equal(made["start"].values, made.values)
    assert made.factor == 2
    assert made.effective_resolution <= L
    assert made.starting_step > 0


MESSAGES = {
    ("conditional SKILD", "generate"): "a conditional model cannot generate",
    ("SR3", "generate"): "a conditional model cannot generate",
    ("DDPM", "reconstruct"): r"levels for the factors none \(DDPM\), got 2",
    ("DDPM", "super_resolve"): r"levels for the factors none \(DDPM\), got 2",
}


@pytest.mark.parametrize(("kind", "verb"), UNABLE)
def test_what_a_model_cannot_is_named(models, given, tmp_path, kind, verb):
    message = MESSAGES.get((kind, verb), "cannot enlarge")
    with pytest.raises(InputError, match=message) as error:
        ask(models[kind], verb, given[verb], out=tmp_path / "made.h5")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


class StoppedError(Exception):
    pass


def stopping(after):
    """Progress that stops the work once so many fields are done."""

    @contextmanager
    def progress(title, total):
        def show(done, text=""):
            if done >= after:
                raise StoppedError

        yield show

    return progress


@pytest.mark.parametrize(("kind", "verb"), ABLE)
def test_files_hold_what_memory_would_and_interrupted_calls_go_on(
    models, given, tmp_path, kind, verb
):
    model, asked = models[kind], []
    whole = ask(model, verb, given[verb])
    network = model.network

    class Counting(torch.nn.Module):
        multiple = getattr(network, "multiple", 1)

        def forward(self, x, *others):
            asked.append(len(x))
            return network(x, *others)

    counting, out = replace(model, network=Counting()), tmp_path / "made.h5"
    with pytest.raises(StoppedError):
        ask(counting, verb, given[verb], out=out, progress=stopping(BATCH))
    assert not out.exists()
    assert asked
    assert set(asked) == {BATCH}
    asked.clear()
    made = ask(counting, verb, given[verb], out=out)
    # the one field that was missing, and its double: alone it would be rounded otherwise
    assert set(asked) == {2}
    assert [path.name for path in tmp_path.iterdir()] == ["made.h5"]
    np.testing.assert_array_equal(made.values, whole.values)
    np.testing.assert_array_equal(made["sample"], whole["sample"])
    differ = {"source", "n_samples", "sample_count"}
    assert {k: v for k, v in whole.attrs.items() if k not in differ}.items() <= made.attrs.items()
    if verb == "generate":
        assert "start" not in made.coords
    else:
        with xr.open_dataset(out, engine="h5netcdf") as stored:
            start = stored["start"].values.reshape(whole.shape)
        np.testing.assert_array_equal(start, whole["start"].values)
    # what is there is not made again, nor replaced
    with pytest.raises(InputError, match=r"made\.h5.*overwrite"):
        ask(model, verb, given[verb], out=out)
    made.close()


def test_calls_of_other_settings_do_not_go_on(models, tmp_path):
    """Not with other noise, whatever it is that makes it so."""
    model, out = models["SKILD"], tmp_path / "made.h5"
    how = {"sampler": sk.Stochastic(4, stochasticity=0.5), "batch_size": 1, "out": out}
    with pytest.raises(StoppedError):
        model.generate(2, **how, progress=stopping(1))
    for other in (
        {"seed": 1},
        {"sampler": sk.Stochastic(4)},
        {"sampler": sk.Multistep(4)},
        {"sampler": sk.Stochastic(5, stochasticity=0.5)},
    ):
        with pytest.raises(InputError, match="other settings"):
            model.generate(2, **how | other)
    with pytest.raises(InputError, match="other settings"):
        replace(model, precision="bfloat16").generate(2, **how)
    assert model.generate(2, **how).shape == (2, L, L)


@pytest.mark.parametrize(("kind", "verb"), ABLE)
def test_a_field_does_not_depend_on_its_batch(models, given, kind, verb):
    """But for how a network rounds batches of other sizes."""
    one, other = (ask(models[kind], verb, given[verb], batch_size=size) for size in (1, 4))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3 * float(np.abs(other).max()))


def test_the_first_fields_of_many(models, given, truth):
    whole = ask(models["SKILD"], "reconstruct", truth[:6])
    first = ask(models["SKILD"], "reconstruct", truth, samples=3)
    np.testing.assert_allclose(first, whole[:3], atol=1e-4)
    assert first["sample"].values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["SKILD", "scale space"])
def test_critical_and_own_sides(models, kind):
    model = models[kind]
    if kind == "SKILD":
        assert ask(model, "generate", 1, L=2 * L).shape == (1, 2 * L, 2 * L)
        with pytest.raises(InputError, match="multiples of 2, got 33"):
            ask(model, "generate", 1, L=33)
    else:
        with pytest.raises(InputError, match=f"makes {L} x {L}, got 64"):
            ask(model, "generate", 1, L=2 * L)


def test_a_model_that_leaves_something_cannot_generate(truth):
    """The paper's super-resolution models stop at a resolution, or never change the mean."""
    ending = SKILD | {"schedule": {"kind": "linear", "resolution": 8.0}}
    frozen = {key: value for key, value in SKILD.items() if key != "k_c"}
    for process, message in ((ending, "effective resolution of 8"), (frozen, "k_c = 0")):
        model = model_of({"process": process, "network": COMPACT})
        with pytest.raises(InputError, match=message):
            model.generate(1)
        assert ask(model, "reconstruct", truth[:1]).shape == (1, L, L)
    with pytest.raises(InputError, match="`factor` must be at most 4"):
        model_of({"process": ending, "network": COMPACT}).reconstruct(truth[:1], 8)


CROP = {"process": SPACE | {"degradation": "crop"}, "network": FLEXI}
STARTED = [pair for pair in ABLE if pair[0] not in ("conditional SKILD", "SR3")]


@pytest.mark.parametrize(("kind", "verb"), STARTED)
def test_a_given_start_makes_the_same_fields(models, given, tmp_path, kind, verb):
    """Drawn again, with the noise of later steps, from the file that the first run wrote."""
    model, start = models[kind], tmp_path / "start.npy"
    for sampler in (sk.Multistep(5), sk.Stochastic(5)):
        how = {"sampler": sampler, "overwrite": True}
        first = ask(model, verb, given[verb], **how, start_out=start)
        again = ask(model, verb, given[verb], **how, start=start)
        np.testing.assert_allclose(again, first, atol=2e-4 * float(first.std()))
    states = np.load(start)
    assert states.shape == (4, 1, *first.shape[-2:])
    # one by one, in memory, and of another root, of which this sampler draws nothing within a level
    how = {"sampler": sk.Multistep(5), "batch_size": 1, "seed": 5 if kind == "scale space" else 6}
    alone = ask(model, verb, given[verb], **how, start=states)
    other = ask(model, verb, given[verb], sampler=sk.Multistep(5), start=start)
    np.testing.assert_allclose(alone, other, atol=1e-3 * float(first.std()))
    drawn = ask(model, verb, given[verb], **how | {"seed": 7})
    assert float(np.abs(drawn - alone).max()) > 0.01
    if verb != "generate":
        np.testing.assert_array_equal(alone["start"], states[:, 0])


def test_a_given_start_where_fields_do_not_show_all_of_it(given, truth, tmp_path):
    start = tmp_path / "start.npy"
    cropping = model_of(CROP)
    first = ask(cropping, "reconstruct", truth[:3], start_out=start)
    again = ask(cropping, "reconstruct", truth[:3], start=start)
    np.testing.assert_allclose(again, first, atol=2e-4 * float(first.std()))
    cosine = {"law": LAW | {"basis": "cosine"}, "schedule": SKILD["schedule"], "k_c": 3.0}
    model = model_of({"process": cosine, "network": COMPACT})
    coarse = np.random.default_rng(0).uniform(-1, 1, (3, 10, 10)).astype(np.float32)
    how = {"kernel": "box", "sampler": sk.Multistep(2), "basis": "cosine"}
    made = model.super_resolve(coarse, 2.5, start_out=start, overwrite=True, **how)
    assert made.shape == (3, 25, 25)
    with pytest.raises(InputError, match=r"`start`: fields of 25 x 25 are made on .* 26 x 26"):
        model.super_resolve(coarse, 2.5, start=start, **how)


def test_a_given_start_is_part_of_what_is_asked_for(models, truth, tmp_path, caplog):
    model, out, start = models["SKILD"], tmp_path / "made.h5", tmp_path / "start.npy"
    first = ask(model, "generate", 3, out=tmp_path / "first.h5", start_out=start)
    made = ask(model, "generate", None, out=out, start=start)
    assert len(made) == 3
    np.testing.assert_allclose(made, first, atol=1e-4)
    assert ask(model, "generate", 3, out=out, start=start).identical(made)
    assert ask(model, "generate", 2, start=start).shape == (2, L, L)
    result = tmp_path / "reconstructed.h5"
    first = ask(model, "reconstruct", truth[:3], out=result)
    again = ask(model, "reconstruct", truth[:3], start=result)
    np.testing.assert_allclose(again, first, atol=1e-4)
    with pytest.raises(InputError, match=r"made\.h5: .*start"):
        ask(model, "generate", 3, start=out)
    states = np.load(start)
    for other in (None, 1.01 * states):
        with pytest.raises(InputError, match="already"):
            ask(model, "generate", 3, out=out, start=other)
    colours = np.concatenate([states] * 3, axis=1)
    broken = np.where(np.arange(L) == 5, np.nan, states)
    np.save(tmp_path / "broken.npy", broken)
    for wrong, message in (
        (states[..., :-2, :-2], "holds 3 states of 1 x 30 x 30, expected 3 of 1 x 32 x 32"),
        (colours, "holds 3 states of 3 x 32 x 32"),
        (states[:2], "holds 2 states of .*, expected 3"),
        (broken, "nan"),
        (tmp_path / "broken.npy", "nan|not finite"),
        (np.zeros(5), "."),
    ):
        with pytest.raises(InputError, match=message):
            ask(model, "generate", 3, start=wrong)
    with pytest.raises(InputError, match="is an input"):
        ask(model, "generate", 3, start=start, start_out=start, overwrite=True)
    for kind in ("SR3", "conditional SKILD"):
        with pytest.raises(InputError, match="`start`: a conditional model"):
            ask(models[kind], "reconstruct", truth[:3], start=states)
    caplog.clear()
    ask(model, "generate", 3, start=L * states)
    assert "times the variance of the model's process" in caplog.text


def test_what_is_left_decides_on_generation(truth):
    """k_c = 31.2 takes all with it, though the published log-linear cutoff stays at 6.83 pixels."""
    log_linear = {"kind": "log-linear", "lambda_i": -3.75, "lambda_f": -2.0}
    published = {"law": LAW, "schedule": log_linear, "k_c": 31.2, "snr": 1e-4}
    model = model_of({"process": published, "network": COMPACT})
    left = float(model.process.largest_snr(model.process.T))
    assert left == pytest.approx(1 / np.expm1(31.2**2 * 0.01), rel=1e-9)
    assert left == pytest.approx(5.92e-5, rel=1e-3)
    assert model.can_generate
    assert model.left == 0
    assert ask(model, "generate", 2).shape == (2, L, L)
    start = model.preview_start()
    assert (start.n, start.resolution) == (model.process.T, 0)

    # k_c where the mode with most left is at the threshold, whatever the cutoff is
    edge = float(np.sqrt(np.log1p(1 / 1e-4) / 0.01))
    for k_c, can in ((edge * (1 - 1e-9), False), (edge * (1 + 1e-9), True)):
        model = model_of({"process": published | {"k_c": k_c}, "network": COMPACT})
        assert model.can_generate == can
    low = {"kind": "linear", "resolution": 0.9}
    model = model_of({"process": SKILD | {"schedule": low}, "network": COMPACT})
    assert model.left == pytest.approx(0.9)
    with pytest.raises(InputError, match=r"ratio of 0\.35, where 0\.1 is resolved"):
        model.generate(1)
    assert model.preview_start().n < model.process.T


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_the_same_once_it_is_loaded(models, given, tmp_path, kind):
    model = models[kind]
    if kind == "scale space":
        model = model.calibrated(torch.randn(8, 1, L, L), 4)
    save_model(tmp_path / "model.safetensors", model)
    loaded = load(tmp_path, device="cpu")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert repr(loaded) == repr(model)
    assert len(loaded.errors()) == (1 if kind == "scale space" else 0)
    verb = CAN[kind][0]
    ours, theirs = (ask(each, verb, given[verb]) for each in (model, loaded))
    np.testing.assert_array_equal(ours, theirs)
    assert theirs.checkpoint == str(tmp_path)
    assert "checkpoint" not in ours.attrs


def test_options_that_a_kind_does_not_have(models, tmp_path):
    save_model(tmp_path / "ddpm.safetensors", models["DDPM"])
    with pytest.raises(InputError, match="`snr_threshold` is for active modes"):
        load(tmp_path / "ddpm.safetensors", snr_threshold=0.1)
    with pytest.raises(InputError, match="`precision` must be one of float32, bfloat16"):
        load(tmp_path / "ddpm.safetensors", precision="float16")


def test_what_was_not_trained_for_is_refused(models, given, truth):
    scale, sr3 = models["scale space"], models["SR3"]
    coarse = given["super_resolve"]
    for model in (scale, sr3):
        with pytest.raises(InputError, match="coarse-grained by box, not lanczos"):
            model.super_resolve(coarse, 2, kernel="lanczos")
        with pytest.raises(InputError, match="factor"):
            model.reconstruct(truth, 4)
    with pytest.raises(InputError, match=r"does not say how.*`kernel`"):
        models["SKILD"].super_resolve(coarse.values, 2)
    with pytest.raises(InputError, match="takes multiples of 2"):
        models["SKILD"].super_resolve(coarse, 2.0625)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: m.generate(0), "`samples` must be at least 1, got 0"),
        (lambda m, t: m.generate(1, batch_size=0), "`batch_size` must be at least 1, got 0"),
        (lambda m, t: m.reconstruct(t, 0.5), "`factor` must be at least 1, got 0.5"),
        (lambda m, t: m.enlarge(t, 2, keep=1.5), "`keep` must lie between 0 and 1, got 1.5"),
        (lambda m, t: m.enlarge(t, 0.5), "times 0.5 would be 16 wide"),
        (
            lambda m, t: m.reconstruct(np.zeros((2, 3, L, L), np.float32), 2),
            r"has 3 channels .*, the model 1 \(spin\)",
        ),
        (lambda m, t: m.reconstruct("missing.h5", 2), r"missing\.h5: no such file"),
    ],
)
def test_bad_input_is_named(models, truth, call, message):
    with pytest.raises(InputError, match=message):
        call(models["SKILD"], truth)


# pictures


@pytest.fixture(scope="module")
def pictures():
    """A model of colours that takes multiples of 8."""
    parts = {
        "process": SKILD | {"law": LAW | {"basis": "cosine"}},
        "network": {"channels": [8, 8], "blocks": [1, 1], "patch": 4},
    }
    made = model_of(parts, ("red", "green", "blue"))
    assert made.multiple == 8
    return made


def coloured(side, count=4):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (count, 3, side // 4, side // 4), dtype=np.uint8)
    return pixels.repeat(4, axis=2).repeat(4, axis=3)


@pytest.mark.parametrize("kernel", ["bicubic", "box", "spectral"])
def test_pictures_of_any_side(pictures, tmp_path, kernel):
    """On a lattice that the network takes, here 56 x 56, and then without its last modes."""
    coarse, out, start_out = coloured(20), tmp_path / "made.h5", tmp_path / "start.npy"
    how = {"kernel": kernel, "sampler": sk.Multistep(3), "batch_size": BATCH}
    whole = pictures.super_resolve(coarse, 2.5, **how)
    assert whole.dims == ("sample", "channel", "y", "x")
    assert whole.shape == whole["start"].shape == (4, 3, 50, 50)
    made = pictures.super_resolve(coarse, 2.5, **how, out=out, start_out=start_out)
    np.testing.assert_array_equal(made.values, whole.values)
    with xr.open_dataset(out, engine="h5netcdf") as stored:
        assert stored["field"].shape == stored["start"].shape == (4, 3, 50, 50)
        np.testing.assert_array_equal(stored["start"].values, whole["start"].values)
    np.testing.assert_array_equal(np.load(start_out), whole["start"].values)
    made.close()


def test_pictures_of_a_side_that_the_network_takes_agree_with_what_was_given(pictures):
    made = pictures.super_resolve(coloured(20), 2, kernel="bicubic", sampler=sk.Multistep(3))
    assert made.shape == (4, 3, 40, 40)
    assert made.consistency_residual < 1e-4


@pytest.mark.parametrize("name", ["made.npz", "made"])
def test_results_as_pictures(pictures, tmp_path, name):
    """Bytes of the same fields, and the start on its own."""
    how = {"sampler": sk.Multistep(3), "batch_size": BATCH}
    fields = coloured(32)
    whole = pictures.reconstruct(fields, 2, **how)
    start = tmp_path / "start.npy"
    made = pictures.reconstruct(fields, 2, **how, out=tmp_path / name, start_out=start)
    assert made.shape == whole.shape
    bytes_of = np.rint((np.clip(whole.values, -1, 1) + 1) * 127.5)
    np.testing.assert_allclose((made.values + 1) * 127.5, bytes_of, atol=1.01)
    np.testing.assert_array_equal(np.load(start), whole["start"].values)
    assert open_fields(tmp_path / name, size=None if name.endswith("npz") else 32).shape == (
        4, 3, 32, 32,
    )  # fmt: skip


@pytest.mark.parametrize("stored", ["memory", "array", "file", "npy"])
def test_calls_on_other_fields_do_not_go_on(models, tmp_path, stored):
    """Of the same shape and name; of one file, too."""
    ensemble = sk.generate_ising(L, samples=6, seed=8)
    if stored == "file":
        ensemble.close()
        ensemble = sk.generate_ising(L, samples=6, seed=8, out=tmp_path / "fields.h5")
    elif stored == "npy":
        np.save(tmp_path / "fields.npy", ensemble.values)
        ensemble = sk.open(tmp_path / "fields.npy")
    elif stored == "array":
        ensemble = ensemble.values
    how = {"sampler": sk.Multistep(2), "batch_size": 1, "out": tmp_path / "made.h5"}
    model, first, others = models["SKILD"], ensemble[:3], ensemble[3:]
    with pytest.raises(StoppedError):
        model.reconstruct(first, 2, **how, progress=stopping(1))
    with pytest.raises(InputError, match="other settings"):
        model.reconstruct(others, 2, **how)
    again = model.reconstruct(first, 2, **how)
    whole = model.reconstruct(first, 2, sampler=sk.Multistep(2), batch_size=1)
    np.testing.assert_array_equal(again, whole)
    again.close()
