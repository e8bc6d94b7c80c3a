"""Super-resolved fields against exact draws: what is measured, and what it can tell apart."""

import json

import numpy as np
import pytest
import xarray as xr
from command_line import run
from scipy import stats

import skild_physics as sk
from skild_physics.files import InputError
from skild_physics.observables.draws import ranks, uniformity


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(L=16, samples=400, seed=21)


@pytest.fixture(scope="module")
def coarse(truth):
    return sk.coarse_grain(truth, factor=4)


@pytest.fixture(scope="module")
def exact(coarse):
    return sk.sample_exact(coarse, factor=4, draws=7, seed=1)


def test_draws_and_truth_cannot_be_told_apart_and_rough_fields_can(truth, coarse, exact):
    same = sk.sample_exact(coarse, factor=4, draws=3, seed=2)
    rough = sk.sample_exact(coarse, factor=4, sweeps=2, seed=3)
    result = sk.eval_draws(truth=truth, exact=exact, same=same, rough=rough).dataset
    for label in ("truth", "same"):
        here = result.sel(source=label)
        z = here["difference"] / here["difference_stderr"]
        assert (abs(z) < 4.5).all()
        z = here["inner_difference"] / here["inner_difference_stderr"]
        assert (abs(z) < 4.5).all()
    for name, label in (("truth_rank", "exact"), ("rank", "same"), ("truth_rank", "same")):
        assert (result[f"{name}_p_value"].sel(source=label) > 1e-5).all()
        assert (abs(result[name].sel(source=label) - 0.5) < 4.5 / np.sqrt(12 * 400) + 0.02).all()
    a, b = (result["overlap"].sel(source=label) for label in ("exact", "same"))
    assert abs(float(a - b)) < 0.02
    assert abs(float(a - result["overlap_of_draws"].sel(source="exact"))) < 0.02
    here = result.sel(source="rough", statistic="energy")
    assert float(here["difference"]) > 5 * float(here["difference_stderr"])
    assert float(here["rank_p_value"]) < 1e-6
    assert float(here["rank"]) > 0.6
    assert float(here["truth_rank"]) < 0.43
    assert (result["right_sums"] == 1).all()


def test_it_says_in_words_what_can_be_told_apart(truth, coarse, exact):
    rough = sk.sample_exact(coarse, factor=4, sweeps=2, seed=3)
    same = sk.sample_exact(coarse, factor=4, seed=2)
    result = sk.eval_draws(truth=truth, exact=exact, rough=rough, same=same, flipped=-same)
    told = result.in_words()
    assert told[0].startswith("truth: not told from exact by ranks, p = ")
    assert told[1].startswith("rough: told from exact by ranks, p = ")
    assert float(told[1].split("p = ")[1]) < 1e-6
    found = result.dataset["rank_p_value"].sel(source="same").values
    assert told[2] == f"same: not told from exact by ranks, p = {min(1, 3 * found.min()):.2g}"
    wrong = (coarse != 0).values.mean()
    others = f"for {wrong:.2g} of its blocks have other averages; by ranks alone p = "
    assert told[3].startswith(f"flipped: told from exact, {others}")
    assert repr(result).splitlines()[-4:] == told
    (few,) = sk.eval_draws(truth=truth[:8], exact=exact).in_words()
    assert few == "truth: not told from exact by ranks, too few fields"


def test_what_is_measured_by_hand():
    """Fields of two blocks; those of the model have a spin turned in one of them."""
    rng = np.random.default_rng(0)
    spins = rng.choice(np.array([-1, 1], np.int8), (16, 4, 4))
    turned = spins.copy()
    turned[:, 0, 0] *= -1
    two = np.stack([spins, turned], axis=1).reshape(32, 4, 4)
    two = xr.DataArray(
        two, dims=("sample", "y", "x"), coords={"sample": np.repeat(np.arange(16), 2)}
    )
    result = sk.eval_draws(truth=spins, exact=spins, made=two, factor=2).dataset
    here = result.sel(source="made")
    assert int(here["draws"]) == 2
    assert float(here["overlap"]) == pytest.approx((1 + 14 / 16) / 2)
    assert float(here["overlap_of_draws"]) == pytest.approx(14 / 16)
    assert float(here["right_sums"]) == pytest.approx((1 + 3 / 4) / 2)
    s = spins.astype(int)
    change = 2 * s[:, 0, 0] * (s[:, 0, 1] + s[:, 1, 0] + s[:, 0, 3] + s[:, 3, 0]) / 16
    assert float(here["difference"].sel(statistic="energy")) == pytest.approx(change.mean() / 2)
    sums = abs(s.reshape(16, 2, 2, 2, 2).sum((2, 4)))
    blocks = s.reshape(16, 2, 2, 2, 2)
    inner = (blocks[:, :, 1] * blocks[:, :, 0]).sum(-1) + (blocks[..., 1] * blocks[..., 0]).sum(2)
    for number in (0, 2):
        value = float(result["inner"].sel(source="truth", block_sum=number))
        assert value == pytest.approx(-inner[sums == number].mean() / 4)
        assert float(result["share"].sel(block_sum=number)) == (sums == number).mean()
    assert np.isnan(result["overlap_of_draws"].sel(source="exact"))


def test_ranks_are_uniform_also_of_equal_values():
    rng = np.random.default_rng(1)
    for values in (rng.normal(size=(8000, 6)), rng.integers(0, 3, (8000, 6)).astype(float)):
        found = ranks(values[:, 0], values[:, 1:], rng)
        assert stats.chisquare(np.bincount(found, minlength=6)).pvalue > 1e-5
        assert uniformity(found, 5) > 1e-5
    assert uniformity(np.zeros(100, int), 5) < 1e-10
    # cells of five: a third of the ranks in each
    assert uniformity(np.repeat(np.arange(9), 2)[:15], 8) > 0.1
    assert np.isnan(uniformity(np.zeros(9, int), 8))


def test_fields_are_matched_by_their_samples(truth, exact):
    """In any order, and those that all have."""
    order = np.random.default_rng(2).permutation(40)
    some = exact.isel(sample=np.flatnonzero(exact["sample"].values < 40))
    shuffled = truth[:40][order]
    result = sk.eval_draws(truth=truth, exact=some, again=shuffled).dataset
    assert result.attrs["n_fields"] == 40
    assert float(result["overlap"].sel(source="again")) == 1
    other = sk.eval_draws(truth=truth[:40], exact=some).dataset
    xr.testing.assert_equal(result["overlap"][1], other["overlap"][1])


def test_what_cannot_be_is_refused(truth, exact):
    cases = [
        ({"truth": truth}, "takes the truth and exact draws"),
        ({"truth": truth[:5], "exact": exact}, "5 fields in common; 8 are needed"),
        ({"truth": truth, "exact": exact[:-1]}, "exact: has 6 draws of some fields, 7 of others"),
        ({"truth": exact, "exact": exact}, "truth: has several fields of one `sample`"),
        ({"truth": truth, "exact": truth}, "exact: does not say the side of its blocks"),
        ({"truth": truth, "exact": -exact}, "exact: has other sums of 4 x 4 spins than truth"),
        ({"truth": truth, "exact": exact, "x": truth[:, :8, :8]}, "x has 8 sites per side"),
        ({"truth": truth.assign_attrs(boundary="open"), "exact": exact}, "truth: patches"),
        ({"truth": truth, "exact": exact, "factor": 3}, "`factor` must divide 16, got 3"),
        ({"truth": truth, "exact": exact, "factor": 2.5}, "`factor` must divide 16, got 2.5"),
        ({"truth": truth, "exact": exact.assign_attrs(factor="x")}, "exact: factor: "),
        ({"truth": truth, "exact": exact, "overwrite": True}, "`overwrite` goes with `out`"),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said):
            sk.eval_draws(**given)
    with pytest.raises(InputError, match="label 'exact' is given twice"):
        sk.eval_draws({"truth": truth, "exact": exact}, exact=exact)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.assign_attrs(schema="mine"), "not a result of eval-draws"),
        (lambda data: data.assign_attrs(schema_version=99), "a newer version"),
        (lambda data: data.assign_attrs(n_fields="many"), "n_fields: "),
        (lambda data: data.drop_vars("overlap_stderr"), "has no numbers `overlap_stderr`"),
        (lambda data: data.isel(source=[0, 0]), "does not say each `source` once"),
        (lambda data: data.isel(source=[0]), "does not name the truth and exact draws"),
        (lambda data: data.assign_coords(source=[1, 2]), "does not name the truth"),
        (lambda data: data.isel(statistic=[0, 1]), "holds other statistics"),
        (lambda data: data.assign(draws=1.5 * data["draws"]), "no whole numbers"),
        (lambda data: data.transpose(), "has no numbers"),
    ],
)
def test_files_of_something_else_are_refused(change, said, tmp_path, truth, exact):
    path = tmp_path / "draws.nc"
    result = sk.eval_draws(truth=truth[:40], exact=exact[: 40 * 7])
    result.save(path)
    assert repr(sk.Draws.load(path)) == repr(result)
    sk.Draws(change(result.dataset)).save(path)
    with pytest.raises(InputError, match=said):
        sk.Draws.load(path)


def test_the_command(truth, coarse, exact, tmp_path):
    made = sk.sample_exact(coarse, factor=4, seed=9).astype(np.float32) * np.float32(0.5)
    for name, fields in {"held": truth, "exact": exact, "made": made}.items():
        sk.save(fields, tmp_path / f"{name}.h5").close()
    done = run("eval-draws truth=held.h5 exact=exact.h5 made.h5", tmp_path)
    assert done.stdout.splitlines()[-1] == "draws.nc"
    assert "truth among exact" in done.stdout
    assert "400 of them" in done.stderr
    result = sk.eval_draws(truth=truth, exact=exact, made=made)
    made_before = sk.Draws.load(tmp_path / "draws.nc")
    xr.testing.assert_equal(made_before.dataset, result.dataset)
    assert repr(made_before) == repr(result)
    assert "made among exact" in repr(result)
    again = run("eval-draws truth=held.h5 exact=exact.h5 made.h5", tmp_path)
    assert again.stdout == done.stdout
    assert "draws.nc: made already" in again.stderr
    assert sk.info(tmp_path / "draws.nc").values == {"results": "draws", "of": "truth, exact, made"}
    for other in ("made.h5 more=made.h5", "made.h5 --factor 2", "exact.h5", ""):
        refused = run(f"eval-draws truth=held.h5 exact=exact.h5 {other}", tmp_path, code=2)
        assert (
            "exists already; pass --overwrite" in refused.stderr or "two sources" in refused.stderr
        )
    done = run("eval-draws truth=held.h5 exact=exact.h5 made.h5 --overwrite --json", tmp_path)
    assert json.loads(done.stdout)["attrs"]["factor"] == 4
