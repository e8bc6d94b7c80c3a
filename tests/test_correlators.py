"""The result of an evaluation: how it prints, plots, is kept, and what is compared with what."""

import logging
import sys
from contextlib import contextmanager
from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr

import skild_physics as sk
from skild_physics.cli.main import main
from skild_physics.data_gen import IsingParameters, generate, generate_ising
from skild_physics.fields import open_fields
from skild_physics.files import InputError
from skild_physics.observables import evaluate
from skild_physics.observables.compare import compare_with_exact
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.observables.exact import BETA_CRITICAL, torus_energy
from skild_physics.observables.results import Correlators
from skild_physics.plots import Figure


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("correlators") / "critical.h5"
    generate(path, IsingParameters.planned(8, seed=5), 256)
    return path


@pytest.fixture
def truth(path):
    with open_fields(path) as fields:
        return fields.load().assign_coords(sample=np.arange(256))


@pytest.fixture
def result(truth):
    flipped = truth.copy()
    flipped[:, 0, 0] *= -1
    return eval_correlators(truth=truth, flipped=flipped, fewer=truth[:100], block_spins=1)


def test_it_prints_itself(result):
    text = repr(result)
    energy = result.dataset["energy"].values[0], result.dataset["energy_stderr"].values[0]
    digits = f"{energy[0]:.3f}({round(1e3 * energy[1])})"
    assert energy[1] == pytest.approx(0.017, abs=0.008)
    assert digits in text
    for words in ("kappa4(r = 4)", "block spins, round 1", "against exact", "256 fields in"):
        assert words in text
    assert "kappa4(r = 4)" in result._repr_html_()


def test_it_says_in_words_what_it_found(truth):
    rng = np.random.default_rng(0)
    shuffled = truth.copy(data=rng.choice(np.array([-1, 1], np.int8), truth.shape))
    blurred = (truth * 0.9 + 0.01).astype("float32")
    result = eval_correlators(truth=truth, again=-truth[::-1], noise=shuffled, soft=blurred)
    again, noise, soft = result.in_words()
    assert again.startswith("again: kappa4 is consistent with that of truth: 3 of 3 sides within 2")
    assert noise.startswith("noise: kappa4 differs from that of truth: 0 of 3 sides within 2 sigma")
    assert float(noise.split("p = ")[1]) < 1e-6
    assert soft.startswith("soft: ")
    assert "soft (raw)" in result.dataset["source"].values
    assert "│ soft (raw)" not in repr(result)
    assert "by their signs; the file has both" in repr(result)
    assert repr(result).splitlines()[-1] == soft
    (few,) = eval_correlators(truth=truth, few=truth[:6]).in_words()
    assert few == "few: too few fields to say whether kappa4 is that of truth"


def test_it_plots_itself(result, tmp_path):
    figure = result.plot()
    assert isinstance(figure, Figure)
    assert [list(result.pictures), len(figure.subfigs)] == [["truth", "flipped", "fewer"], 2]
    mine = Figure()
    ax = mine.subplots()
    assert result.plot(ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["flipped", "fewer"]
    result.save(tmp_path / "c.nc")
    assert isinstance(Correlators.load(tmp_path / "c.nc").plot(), Figure)


def test_files_hold_all_of_it(result, tmp_path):
    path = tmp_path / "c.nc"
    path.write_text("an older result")
    result.save(path)
    again = Correlators.load(path)
    assert len(again.datasets) == 2
    for one, other in zip(result.datasets, again.datasets, strict=True):
        xr.testing.assert_identical(one, other)
    assert repr(again) == repr(result)
    with pytest.raises(InputError, match="files keep no jackknife replicas"):
        again.to_pyerrors()


def test_files_of_earlier_versions(result, tmp_path):
    older = [each.drop_vars(["beta", "n_pairs"]) for each in result.datasets]
    del older[1].attrs["model"]
    Correlators(older).save(tmp_path / "c.nc")
    shown = (repr(each).splitlines() for each in (Correlators.load(tmp_path / "c.nc"), result))
    # they do not say how many fields are compared one by one
    ours, now = ([line for line in lines if "│ fields" not in line] for lines in shown)
    assert len(ours) == len(now) > 40
    assert ours == now


def test_files_that_hold_none(path, tmp_path):
    (tmp_path / "text.nc").write_text("text")
    for file, message in (
        (tmp_path / "none.nc", "no such file"),
        (tmp_path / "text.nc", "not a readable NetCDF file"),
        (path, "not a result of eval-correlators"),
    ):
        with pytest.raises(InputError, match=message):
            Correlators.load(file)


def test_the_command_gives_the_same(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.h5").write_bytes(path.read_bytes())
    options = ["--block-spins", "1", "--clusters", "--sides", "1,3", "--out", "command.nc"]
    words = ["skild-physics", "eval-correlators", "truth=a.h5", f"again={path}", *options]
    monkeypatch.setattr(sys, "argv", words)
    main()
    sources = {"truth": "a.h5", "again": path}
    ours = eval_correlators(sources, block_spins=1, clusters=True, sides=(1, 3))
    again = eval_correlators(sources, block_spins=1, clusters=True, sides=(1, 3), out="library.nc")
    for one, other in zip(again.datasets, Correlators.load("command.nc").datasets, strict=True):
        xr.testing.assert_identical(one, other)
    assert ours.dataset.attrs["files"] == ["truth=a.h5", "again=critical.h5"]


def test_residuals_have_their_errors(result):
    found = result.residual("kappa4")
    assert found.dims == ("source", "side")
    assert found["source"].values.tolist() == ["flipped", "fewer"]
    assert found["stderr"].dims == found.dims
    np.testing.assert_array_equal(found["stderr"], result.dataset["kappa4_residual_stderr"][1:])
    assert result.residual("energy").attrs["units"] == "J"
    for name in ("kappa", "tau_int", "energy_stderr"):
        with pytest.raises(InputError, match=f"no observable '{name}'; there are kappa4"):
            result.residual(name)


@pytest.mark.parametrize("kind", ["array", "tensor", "channel", "int64", "transposed"])
def test_whatever_fields_are_given_as(truth, kind):
    values = truth.values
    given = {
        "array": values,
        "tensor": torch.from_numpy(values.copy()),
        "channel": torch.from_numpy(values[:, None].copy()),
        "int64": values.astype(np.int64),
        "transposed": truth.transpose("x", "sample", "y"),
    }[kind]
    found = eval_correlators({"truth": truth}, other=given).dataset
    assert found["source"].values.tolist() == ["truth", "other"]
    np.testing.assert_allclose(found["two_point"][1], found["two_point"][0], atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.arange(-70, 74).reshape(9, 4, 4), "integers are spins, -1 and \\+1"),
        (np.ones((9, 3, 4, 4)), "3 channels, not of one"),
        (np.ones((4, 4)), "shape"),
        (np.full((9, 4, 4), "a"), "holds <U1"),
        (xr.DataArray(np.ones((9, 4, 4)), dims=("a", "b", "d")), "dimensions .*a, b, d"),
    ],
)
def test_what_is_not_fields_is_named(given, message):
    with pytest.raises(InputError, match=f"x: .*{message}"):
        eval_correlators(x=given)


def made_of(fields, **attrs):
    return fields.copy(deep=True).assign_attrs(protocol="paired", **attrs)


@pytest.mark.parametrize("taken", [slice(100, 164), slice(0, 256, 4), [7, 3, 200, *range(20, 81)]])
def test_some_fields_made_again_are_paired_with_theirs(truth, taken):
    copies = made_of(truth[taken])
    result = eval_correlators(truth=truth, copies=copies)
    for name in ("kappa4", "energy", "specific_heat", "two_point"):
        residual = result.residual(name).sel(source="copies")
        assert float(np.abs(residual).max()) == 0, name
        assert float(residual["stderr"].max()) == 0, name
    assert result.dataset["n_pairs"].values.tolist() == [256, 64]
    # values of the truth are those of all its fields
    alone = eval_correlators(truth=truth).dataset
    np.testing.assert_array_equal(result.dataset["kappa4"][0], alone["kappa4"][0])


def test_what_they_belong_to_is_measured_once(truth, monkeypatch):
    lengths = []
    measure = evaluate.measure

    def counted(fields, *arguments, **options):
        lengths.append(len(fields))
        return measure(fields, *arguments, **options)

    monkeypatch.setattr(evaluate, "measure", counted)
    part = truth[64:128]
    flipped = made_of(part)
    flipped[:, 0, 0] *= -1
    result = eval_correlators(truth=truth, a=made_of(part), b=flipped)
    assert lengths == [256, 64, 64, 64]
    paired = eval_correlators(truth=part, b=flipped)
    one, other = (r.residual("kappa4").sel(source="b") for r in (result, paired))
    np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(one["stderr"], other["stderr"], rtol=1e-12)


def test_fields_of_other_samples_are_independent(truth):
    part = truth[:64]
    of_others = made_of(part).assign_coords(sample=np.arange(1000, 1064))
    unnumbered = made_of(part).drop_vars("sample")
    unmarked = part.copy()
    found = eval_correlators(truth=truth, a=of_others, b=unnumbered, c=unmarked).dataset
    assert found["n_pairs"].values.tolist() == [256, 0, 0, 0]
    assert float(found["energy_residual_stderr"][1:].min()) > 0


def test_every_source_has_its_own_temperature(tmp_path, truth, caplog):
    generate(tmp_path / "hot.h5", IsingParameters.planned(8, beta=0.3, seed=1), 256)
    model = truth.drop_attrs()
    with caplog.at_level(logging.WARNING, "skild_physics"):
        result = eval_correlators(truth=truth, hot=str(tmp_path / "hot.h5"), model=model)
    assert "hot is at beta = 0.3, truth at 0.4406867935" in caplog.text
    found, beta = result.dataset, float(truth.attrs["beta"])
    np.testing.assert_allclose(found["beta"], [beta, 0.3, np.nan])
    alone = eval_correlators(hot=tmp_path / "hot.h5").dataset
    for name in ("susceptibility", "specific_heat"):
        assert float(found[name][1]) == float(alone[name][0])
        assert np.isnan(found[name][2])
        assert np.isnan(found[f"{name}_residual"][2])
    assert "no inverse temperature beta is known of model: no" in repr(result)
    assert repr(result).count("against exact") == 2
    given = eval_correlators(truth=truth, model=model, beta=0.3).dataset
    np.testing.assert_allclose(given["beta"], [beta, 0.3])
    energy = compare_with_exact(found, "hot")[0]
    assert energy.exact == torus_energy(8, 0.3)
    assert abs(energy.z) < 5
    for exact in (beta, 0.3):
        assert f"{torus_energy(8, exact):.6f}" in repr(result)


def test_a_temperature_that_nobody_says_is_not_guessed(truth):
    bare = truth.drop_attrs()
    result = eval_correlators(x=bare)
    assert np.isnan(result.dataset["beta"]).all()
    assert np.isnan(result.dataset["susceptibility"]).all()
    assert "susceptibility " not in repr(result)
    assert "no inverse temperature" in repr(result)
    given = eval_correlators(x=bare, beta=0.5).dataset
    known = eval_correlators(x=bare.assign_attrs(beta=0.5)).dataset
    assert float(given["susceptibility"][0]) == float(known["susceptibility"][0])
    for beta, sources in ((0.5, {"x": truth}), (np.nan, {"x": bare}), (np.inf, {"x": bare})):
        with pytest.raises(InputError, match="`beta`"):
            eval_correlators(sources, beta=beta)


def test_boundaries_are_those_of_the_fields(truth):
    patches = truth.assign_attrs(boundary="open")
    assert eval_correlators(x=patches).dataset.attrs["boundary"] == "open"
    assert eval_correlators(x=patches, boundary="periodic").dataset.attrs["boundary"] == "periodic"
    with pytest.raises(InputError, match=r"y is open.*`boundary=open`"):
        eval_correlators(x=truth, y=patches)
    with pytest.raises(InputError, match="`boundary` must be periodic or open, got 'torus'"):
        eval_correlators(x=truth, boundary="torus")
    with pytest.raises(InputError, match="`binarize` must be"):
        eval_correlators(x=truth, binarize="yes")


def test_labels(truth):
    with pytest.raises(InputError, match="label 'a' is given twice"):
        eval_correlators({"a": truth}, a=truth)
    with pytest.raises(InputError, match="nothing to evaluate"):
        eval_correlators()


def test_fields_of_the_caller_stay_open(path):
    with open_fields(path) as fields:
        eval_correlators(truth=fields)
        assert fields[3].values.shape == (8, 8)


def test_progress_is_told(truth):
    seen = []

    @contextmanager
    def progress(title, total):
        yield lambda done, note="": seen.append((title, total, done))

    eval_correlators(truth=truth, other=truth[:9], progress=progress)
    assert seen == [("measure truth", 256, 256), ("measure other", 9, 9)]


def test_as_observables_of_pyerrors(truth):
    """Their errors are ours, and so are those of paired differences."""
    pytest.importorskip("pyerrors")
    flipped = truth.copy()
    flipped[:, 0, 0] *= -1
    result = eval_correlators(truth=truth, flipped=flipped, fewer=truth[:100])
    data = result.dataset
    for name in ("kappa4", "energy", "binder"):
        found = result.to_pyerrors(name)
        assert list(found) == ["truth", "flipped", "fewer"]
        for label, each in found.items():
            here = data.sel(source=label)
            values = [x.value for x in np.atleast_1d(each)]
            np.testing.assert_allclose(values, np.atleast_1d(here[name]))
            if label != "flipped":
                errors = [x.dvalue for x in np.atleast_1d(each)]
                np.testing.assert_allclose(errors, np.atleast_1d(here[f"{name}_stderr"]))
        difference = np.atleast_1d(found["flipped"] - found["truth"])
        for each in difference:
            each.gamma_method(S=0)
        wanted = np.atleast_1d(data[f"{name}_residual_stderr"].sel(source="flipped"))
        np.testing.assert_allclose([x.dvalue for x in difference], wanted, rtol=0.02)
    with pytest.raises(InputError, match="two_point is neither"):
        result.to_pyerrors("two_point")
    with pytest.raises(InputError, match="no errors from fewer than 8"):
        eval_correlators(x=truth[:7]).to_pyerrors()


def test_without_pyerrors(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyerrors", None)
    with pytest.raises(InputError, match="pip install pyerrors"):
        result.to_pyerrors()


def test_the_order_of_sources_changes_no_value(truth):
    """Two formulas of NumPy's for each source, at its own temperature, wherever it stands."""
    cold, hot = (generate_ising(8, samples=200, beta=beta, seed=4) for beta in (0.6, 0.3))
    sources = {"truth": truth, "cold": cold, "hot": hot, "bare": truth[::2].drop_attrs()}
    for labels in list(permutations(sources))[::5]:
        found = eval_correlators({label: sources[label] for label in labels}).dataset
        for label in labels:
            s = sources[label].values.astype(float)
            m = s.mean((1, 2))
            e = -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).mean((1, 2))
            beta = {"truth": BETA_CRITICAL, "cold": 0.6, "hot": 0.3, "bare": np.nan}[label]
            here = found.sel(source=label)
            chi = beta * 64 * ((m**2).mean() - np.abs(m).mean() ** 2)
            heat = beta**2 * 64 * e.var()
            np.testing.assert_allclose(here["beta"], beta)
            np.testing.assert_allclose(here["susceptibility"], chi, rtol=1e-10)
            np.testing.assert_allclose(here["specific_heat"], heat, rtol=1e-10)


def test_boundaries_do_not_depend_on_the_order(truth):
    pictures = truth.astype(float).drop_attrs().assign_attrs(basis="cosine")
    for sources in ({"a": truth.drop_attrs(), "b": pictures}, {"b": pictures, "a": truth[:9] * 1}):
        plain = {label: fields.drop_attrs() for label, fields in sources.items() if label == "a"}
        found = eval_correlators(sources | plain, binarize="sign").dataset
        assert found.attrs["boundary"] == "open"
    with pytest.raises(InputError, match=r"a is periodic, b is open"):
        eval_correlators(a=truth, b=pictures)


BAD = {
    "nan": (np.nan, "nan"),
    "infinity": (np.inf, "infinity"),
    "the default of NetCDF": (9.969209968386869e36, "9.96921e+36, far from all other values"),
    "1e20": (1e20, "1e+20, far from all other values"),
    "-999": (-999, "-999, far from all other values"),
    "what the attributes say": (-7.0, "-7, which marks missing values"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("where", [0, 41])
def test_values_that_are_none_are_named(tmp_path, kind, where):
    value, said = BAD[kind]
    fields = np.random.default_rng(0).normal(size=(60, 8, 8)).astype(np.float32)
    fine = fields.copy()
    fields[where, 3, 5] = value
    fields[50, 0, 0] = value
    np.save(tmp_path / "mine.npy", fields)
    given = tmp_path / "mine.npy"
    if kind == "what the attributes say":
        eval_correlators(x=given)
        given = sk.open(given).assign_attrs(missing_value=-7.0)
    with pytest.raises(InputError) as error:
        eval_correlators(fine=fine, other=given)
    assert str(error.value).startswith(f"other: mine.npy: field {where} holds {said}")


def test_large_values_are_no_codes():
    """Fields of a mean of some hundred hold -999 as any other number; in others it is a code."""
    wide = np.random.default_rng(0).normal(scale=600, size=(60, 8, 8))
    wide[7, 0, 0] = -999
    eval_correlators(x=wide)


def test_spins_are_plus_and_minus_one(truth):
    vacant = truth.copy()
    vacant[17, 2, 3] = 0
    with pytest.raises(InputError) as error:
        eval_correlators(a=truth, b=vacant[10:])
    assert str(error.value) == ("b: critical.h5: field 17 holds 0, no spin: they are -1 or +1")


def test_tables_say_how_many_fields_they_are_of(truth):
    again = made_of(truth[:64])
    rows = repr(eval_correlators(truth=truth, again=again, other=truth[:40], same=-truth))
    found = [line.split("│")[1:6] for line in rows.splitlines() if "│ fields" in line]
    assert [[cell.strip() for cell in row[1:4]] for row in found] == [
        ["256", "64", "64 pairs"],
        ["256", "40", "independent"],
        ["256", "256", "256 pairs"],
    ]


def test_pairs_survive_files_and_interpolation(tmp_path, truth):
    """Interpolated from block averages of the truth's fields, some of them, in files or not."""
    coarse = sk.coarse_grain(truth, factor=2, out=tmp_path / "coarse.h5")
    part = sk.interpolate(coarse[32:64], factor=2, out=tmp_path / "part.h5")
    kept = sk.save(truth[100:164], tmp_path / "kept.h5")
    sources = {"truth": truth, "part": tmp_path / "part.h5", "mine": part.load()}
    found = eval_correlators(sources, binarize="sign").dataset
    assert found["n_pairs"].values.tolist() == [256, 32, 32]
    wanted = eval_correlators(truth=truth[32:64], x=part.drop_attrs(), binarize="sign").dataset

    def energy(spins):
        s = spins.astype(float)
        return -(s * (np.roll(s, 1, 1) + np.roll(s, 1, 2))).mean()

    signs = np.where(part.values < 0, -1, 1)
    for label in ("part", "mine"):
        row = found.sel(source=label)
        shift = energy(signs) - energy(truth.values[32:64])
        np.testing.assert_allclose(row["energy_residual"], shift, atol=1e-12)
        for name in ("energy_residual_stderr", "kappa4_residual", "kappa4_residual_stderr"):
            np.testing.assert_allclose(row[name], wanted[name][1], rtol=1e-9)
    # as many as the truth has: one by one in the order of both
    assert kept["sample"].values.tolist() == list(range(100, 164))
    again = made_of(sk.open(tmp_path / "kept.h5")[::-2].load())
    row = eval_correlators(truth=truth, again=again).dataset.sel(source="again")
    assert int(row["n_pairs"]) == 32
    assert float(np.abs(row["kappa4_residual"]).max()) == 0
    assert float(row["kappa4_residual_stderr"].max()) == 0


def test_pairs_of_unrelated_fields_are_as_good_as_independent_ones():
    """Errors from 125 blocks are known to 6 %, so the two ways agree within 4 sigma of that."""
    one, other = (generate_ising(8, samples=1000, seed=seed) for seed in (6, 7))
    paired = eval_correlators(truth=one, other=other).dataset.sel(source="other")
    apart = eval_correlators(truth=one, other=other[:999]).dataset.sel(source="other")
    assert (int(paired["n_pairs"]), int(apart["n_pairs"])) == (1000, 0)
    for name in ("energy", "abs_magnetization", "kappa4"):
        ratio = paired[f"{name}_residual_stderr"] / apart[f"{name}_residual_stderr"]
        np.testing.assert_allclose(ratio, 1, atol=0.25)
