"""How far made lattices are from the truth is measured rightly, of every setting and size."""

import sys
from contextlib import ExitStack, contextmanager

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import ROOT
from scipy.stats import kstest
from small_runs import one_thread
from test_coarse import N, model_of

import skild_physics as sk
from skild_physics.models.checkpoint import save_model
from skild_physics.observables.jackknife import Replicas
from skild_physics.tables import with_error

quick = pytest.fixture(autouse=True, scope="module")(one_thread)
P_VALUES = ("shells", "m_shares", "cluster_sizes")


@pytest.fixture(scope="module")
def scripts():
    """The modules beside each other, as Python finds those of a script that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import against_truth
        import lattices

        yield against_truth, lattices
    for name in ("against_truth", "lattices"):
        del sys.modules[name]


@pytest.mark.parametrize("L", [8, 15, 16])
def test_shells_are_means_of_numpys_modes_over_half_octaves(scripts, L):
    rng = np.random.default_rng(L)
    spins = rng.choice(np.array([-1, 1], np.int8), (3, L, L))
    S = np.abs(np.fft.fft2(spins)) ** 2 / L**2
    k = np.hypot.outer(*[np.fft.fftfreq(L, 1 / L)] * 2)
    found = scripts[0].shell_means(spins)
    np.testing.assert_allclose(found[:, 0], S[:, 0, 0], rtol=1e-5)
    for i in range(1, found.shape[1]):
        centre = 2 ** ((i - 1) / 2)
        inside = (k >= centre * 2**-0.25) & (k < centre * 2**0.25)
        np.testing.assert_allclose(found[:, i], S[:, inside].mean(axis=1), rtol=1e-5)
    assert k.max() < centre * 2**0.25


def test_p_values_of_the_same_distribution_are_uniform(scripts):
    """T^2 has its exact law for Gaussian means, which shares of 1,024 fields nearly are."""
    against_truth, _ = scripts
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        truth, made = rng.normal(size=(2, 1024))
        edges = np.quantile(truth, against_truth.OCTILES)
        shares = [against_truth.replicas(1.0 * (x[:, None] < edges), 64) for x in (truth, made)]
        found.append(against_truth.p_value(shares[1] - shares[0]))
    # 6e-5 is 4 sigma
    assert kstest(found, "uniform").pvalue > 6e-5


def test_p_values_do_not_depend_on_how_the_same_is_said(scripts):
    """Shares of bins add up to one, so that their covariance is singular; cumulated, it is not."""
    against_truth, _ = scripts
    values = np.random.default_rng(4).normal(size=(2, 256))
    bins = np.digitize(values, [-1, 0, 1])
    ours, theirs = (against_truth.replicas(np.eye(4)[each], 32) for each in bins)
    whole = ours - theirs
    cumulated = Replicas(*(np.cumsum(each, axis=-1)[..., :3] for each in whole))
    assert against_truth.p_value(whole) == pytest.approx(against_truth.p_value(cumulated))
    assert against_truth.p_value(ours - ours) == 1
    few = against_truth.replicas(np.eye(4)[bins[0]], 4)
    other = against_truth.replicas(np.eye(4)[bins[1]], 4)
    assert np.isnan(against_truth.p_value(few - other))
    # nor are there enough blocks for as many statistics
    wide = np.random.default_rng(5).normal(size=(16, 30))
    assert np.isnan(against_truth.p_value(against_truth.replicas(wide, 16)))
    assert not np.isnan(against_truth.p_value(against_truth.replicas(wide[:, :10], 16)))


def test_independent_ensembles_agree_and_a_warmer_one_does_not(scripts):
    truth, other = (sk.generate_ising(L=16, samples=1024, seed=seed) for seed in (1, 2))
    warmer = sk.generate_ising(L=16, samples=1024, seed=3, beta=0.42)
    same = scripts[0].measured(truth, other)
    assert same["kappa4_residual_p_value"].sel(source="made") > 6e-5
    for name in P_VALUES:
        assert same[f"{name}_p_value"] > 6e-5
    assert (np.abs(same["shells_ratio"]) < 4 * same["shells_ratio_stderr"]).all()
    assert abs(same["overlap"]) < 4 * same["overlap_stderr"]
    warm = scripts[0].measured(truth, warmer)
    for name in P_VALUES:
        assert warm[f"{name}_p_value"] < 1e-4
    # the first shell is the susceptibility's <m^2>
    S0 = 16**2 * same["m2"]
    np.testing.assert_allclose(same["shells"][:, 0], S0, rtol=1e-5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "model.safetensors", model_of())
    for L in (N, 2 * N):
        sk.generate_ising(L, samples=8, seed=L, out=folder / f"{L}.h5").close()
    return folder


def called(scripts, *words):
    done = CliRunner().invoke(scripts[1].main, list(map(str, words)))
    return done.exit_code, done.output


def make(scripts, inputs, folder, settings, *options, L=N):
    words = (inputs / "model.safetensors", inputs / f"{L}.h5", folder, "--n-evals", 2)
    return called(scripts, "make", *words, "--settings", settings, *options)


@contextmanager
def results(folder):
    """Files of what was measured, by the names of the settings."""
    with ExitStack() as stack:
        files = [stack.enter_context(h5py.File(each)) for each in folder.glob("*-measured.nc")]
        yield {each.attrs["setting"]: each for each in files}


SETTINGS = "box:4 box:3 reconstruct:2.5 generate enlarge:2 box:4@16"


def test_every_setting_is_made_measured_and_shown(scripts, inputs, tmp_path):
    options = ("--larger", inputs / f"{2 * N}.h5", "--draws", 2)
    code, said = make(scripts, inputs, tmp_path, SETTINGS, *options)
    assert code == 0, said
    with results(tmp_path) as found:
        assert found.keys() == {*SETTINGS.split(), "box:4 exact"}
        for setting, each in found.items():
            assert each.attrs["L"] == (2 * N if setting == "enlarge:2" else N)
            assert each.attrs["seconds"] > 0 or setting == "box:4 exact"
            sides = 6 if setting == "enlarge:2" else 5
            assert (each["kappa4_residual_stderr"][1] > 0).sum() == sides
            errors = np.sqrt(np.diag(each["kappa4_residual_covariance"]))
            np.testing.assert_allclose(errors, each["kappa4_residual_stderr"][1])
            # the model does not know its temperature, the truth does
            assert each["specific_heat_residual_stderr"][1] > 0
            assert f" {setting} |" in said
        assert found["box:3"].attrs["factor"] == N / 11
        assert found["generate"].attrs["seed"] == 7
        assert len(found["generate"].attrs["checkpoint_sha256"]) == 64
        # averages over blocks fix m, and so do exact draws
        for setting in ("box:4", "box:4 exact"):
            assert found[setting].attrs["coarse_fields_off_by"] == 0
            assert found[setting]["m_shares_p_value"][()] == 1
        # as the library says it
        made = sk.open(tmp_path / "reconstruct2.5.h5")
        by_hand = sk.eval_correlators(truth=sk.open(inputs / f"{N}.h5"), made=made, binarize="sign")
        for name in ("specific_heat", "binder", "kappa4"):
            for end in ("_residual", "_residual_stderr"):
                ours = found["reconstruct:2.5"][name + end]
                np.testing.assert_array_equal(ours, by_hand.dataset[name + end])
    # a result of eval-correlators like any other
    assert "kappa4" in repr(sk.Correlators.load(tmp_path / "box4-measured.nc"))


def test_what_is_there_is_taken_and_shown_again(scripts, inputs, tmp_path):
    said, kept = [], []
    for _ in range(2):
        code, output = make(scripts, inputs, tmp_path, "reconstruct:2.5")
        assert code == 0, output
        said.append(output[output.index("| made - truth") :])
        kept.append((tmp_path / "reconstruct2.5.h5").stat().st_mtime_ns)
        with results(tmp_path) as found:
            kept.append(found["reconstruct:2.5"].attrs["seconds"])
    assert kept[:2] == kept[2:]
    assert said[0] == said[1]
    assert called(scripts, "table", tmp_path) == (0, said[0])


def test_lattices_larger_than_the_checkpoints(scripts, inputs, tmp_path):
    few = ("--samples", 2, "--draws", 0)
    code, said = make(scripts, inputs, tmp_path, "reconstruct:4 box:4", *few, L=2 * N)
    assert code == 0, said
    with results(tmp_path) as found:
        assert found.keys() == {"reconstruct:4", "box:4"}
        for each in found.values():
            assert each.attrs["L"] == 2 * N
            # of two fields there are no errors
            assert np.isnan(each["energy_residual_stderr"][1])
        assert found["box:4"].attrs["coarse_fields_off_by"] == 0


def test_the_table_of_several_trainings_has_mean_error_and_spread(scripts):
    against_truth, _ = scripts
    truth, *others = (sk.generate_ising(L=8, samples=32, seed=seed) for seed in range(4))
    trainings = [
        against_truth.measured(truth, each).assign_attrs(truth_sha256="0", checkpoint_sha256=str(i))
        for i, each in enumerate(others)
    ]
    said = against_truth.table({"box:4": trainings})
    cells = dict(row.strip("| ").split(" | ") for row in said.splitlines())
    assert cells.pop("made - truth") == "box:4"
    values, errors = (
        np.array([float(each[f"energy_residual{end}"].sel(source="made")) for each in trainings])
        for end in ("", "_stderr")
    )
    expected = with_error(values.mean(), np.sqrt(np.mean(errors**2)))
    assert cells["energy per spin"] == f"{expected} [{values.std(ddof=1):.2g}]"
    assert len(cells["kappa4, p of all"].split(" ")) == 3
    # of one there is no spread
    alone = against_truth.table({"box:4": trainings[:1]})
    assert f"| energy per spin | {with_error(values[0], errors[0])} |" in alone
    for changed, message in (
        ({"truth_sha256": "1"}, "different true fields"),
        ({"n_evals": 5}, "different samplers"),
        ({}, "the same training twice"),
    ):
        other = trainings[0].assign_attrs(changed)
        with pytest.raises(sk.InputError, match=message):
            against_truth.table({"box:4": [*trainings, other]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("box", "box: not generate, or WORD:FACTOR"),
        ("bxo:4", "bxo:4: not generate, or WORD:FACTOR"),
        ("box:four", "box:four: not a word:number"),
        ("generate:2", "generate:2: not generate"),
        ("reconstruct:4@8", "reconstruct:4@8: @ is for coarse fields"),
        ("enlarge:2", "enlarge needs --larger"),
        ("box:32", "box:32: `factor`: this model was trained on 1.5 to 8"),
        ("box:0.5", "box:0.5: not generate"),
        ("box:nan", "box:nan: not generate"),
        ("box:inf", "box:inf: not generate"),
        ("box:4@0", "box:4@0: an effective resolution is positive"),
        ("box:4@1", "box:4@1: coarse fields say more than an effective resolution of 1"),
    ],
)
def test_settings_that_there_are_not(scripts, inputs, tmp_path, settings, message):
    code, said = make(scripts, inputs, tmp_path, settings)
    assert code in (1, 2)
    assert message in said
    assert "Traceback" not in said


def test_what_is_not_there(scripts, inputs, tmp_path):
    held, model = inputs / f"{N}.h5", inputs / "model.safetensors"
    for words, message in (
        (("table", tmp_path), "nothing was measured there"),
        (("make", tmp_path / "no", held, tmp_path), "no such file"),
        (("make", model, tmp_path / "no.h5", tmp_path), "no such file"),
        (("make", model, held, tmp_path, "--n-evals", 0), "must be at least 1"),
    ):
        code, said = called(scripts, *words)
        assert code == 1
        assert message in said
        assert "Traceback" not in said


def test_no_exact_draws_of_fractions_of_blocks(scripts):
    parsed = scripts[1].Setting.parsed
    assert parsed("box:4").has_exact(48)
    assert not parsed("box:1.5").has_exact(48)
