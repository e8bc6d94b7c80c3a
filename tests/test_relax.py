"""Sweeps from made fields: against enumeration and true fields, and what they say of themselves."""

from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import xarray as xr
from command_line import run
from scipy import stats

import skild_physics as sk
from skild_physics.data_gen.heat_bath import heat_bath_sweeps, heat_bath_thresholds
from skild_physics.data_gen.relaxed import by_rank
from skild_physics.files import InputError
from skild_physics.kernels import PLAIN
from skild_physics.observables.blocks import block_sums
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.xoshiro import seed_state

STATES = np.array(list(product((-1, 1), repeat=9)), np.int8).reshape(-1, 3, 3)


def p_value(spins, beta):
    """Of all states of 3 x 3 spins; those expected less than ten times go together."""
    weights = np.exp(-beta * 9 * energy_per_spin(STATES))
    counts = np.bincount((spins.reshape(-1, 9) > 0) @ (1 << np.arange(8, -1, -1)), minlength=512)
    order = np.argsort(weights)
    expected = weights[order] / weights.sum() * len(spins)
    starts = np.flatnonzero(np.diff(np.cumsum(expected) // 10, prepend=-1))
    cells = (np.add.reduceat(each, starts) for each in (counts[order], expected))
    return stats.chisquare(*cells).pvalue


@pytest.mark.parametrize("beta", [BETA_CRITICAL, 0.0, -0.3])
def test_single_spins_have_the_exact_distribution(beta):
    spins, rng, thresholds = STATES[7].copy(), seed_state(3, 1), heat_bath_thresholds(beta)
    out = np.empty((30_000, 3, 3), np.int8)
    for each in out:
        # at beta = 0 one sweep leaves nothing of the state before
        heat_bath_sweeps(spins, rng, thresholds, 12 if beta else 1)
        each[:] = spins
    assert p_value(out, beta) > 1e-5


def test_relaxed_fields_have_the_exact_distribution():
    """Each from its own start, which is the same; and another temperature is told apart."""
    start = np.ones((20_000, 3, 3), np.int8)
    made = sk.relax(start, 40, beta=0.3, seed=2)
    assert p_value(made.values, 0.3) > 1e-5
    assert p_value(made.values, 0.315) < 1e-8


@pytest.mark.skipif(PLAIN, reason="nothing is compiled")
@pytest.mark.parametrize("L", [3, 4, 7])
def test_the_compiled_kernel_is_the_one_that_is_read(L):
    start = np.random.default_rng(L).choice(np.array([-1, 1], np.int8), (L, L))
    made = []
    for kernel in (heat_bath_sweeps, np.errstate(over="ignore")(heat_bath_sweeps.py_func)):
        spins, rng = start.copy(), seed_state(0, L)
        kernel(spins, rng, heat_bath_thresholds(0.4), 3)
        made.append((spins, rng))
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("beta", [1e308, -1e308])
def test_at_zero_temperature_a_spin_follows_its_neighbours(beta):
    thresholds = heat_bath_thresholds(beta)
    assert set(thresholds.tolist()) == {0, 2**63, 2**64 - 1}
    assert (np.diff(thresholds.astype(float)) * np.sign(beta) >= 0).all()


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(L=16, samples=1500, seed=12)


@pytest.mark.parametrize("factor", [None, 2, 4])
def test_true_fields_stay_true(truth, factor):
    made = sk.relax(truth, 5, factor=factor, seed=4)
    assert (made.values != truth.values).any(axis=(1, 2)).mean() > 0.9
    if factor:
        np.testing.assert_array_equal(
            block_sums(made.values, factor), block_sums(truth.values, factor)
        )
    away = energy_per_spin(made.values) - energy_per_spin(truth.values)
    assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(len(away))


def test_wrong_fields_are_repaired(truth):
    """Shuffled within their blocks, by exchanges; hot ones, by single spins."""
    shuffled = sk.sample_exact(sk.coarse_grain(truth, factor=4), 4, sweeps=0)
    hot = sk.relax(truth, 5, beta=0.0)
    for start, sweeps, factor, least in ((shuffled, 40, 4, 0.2), (hot, 200, None, 1)):
        made = sk.relax(start, sweeps, factor=factor, beta="critical")
        before, after = (
            energy_per_spin(each.values) - energy_per_spin(truth.values) for each in (start, made)
        )
        assert before.mean() > least
        assert abs(after.mean()) < 4.5 * after.std() / np.sqrt(len(after))


def test_blocks_of_continuous_fields_keep_their_averages(truth, caplog):
    """By rank; where averages are those of no spins, that is said."""
    rng = np.random.default_rng(0)
    noisy = truth[:50] + rng.normal(0, 0.8, (50, 16, 16)).astype(np.float32)
    wrong = sk.coarse_grain(truth[:50], factor=4) - sk.coarse_grain(noisy, factor=4)
    fields = (noisy + np.kron(wrong.values, np.ones((4, 4)))).assign_attrs(channels="field")
    made = sk.relax(fields, 3, factor=4, beta="critical")
    assert made.dtype == np.int8
    np.testing.assert_array_equal(block_sums(made.values, 4), block_sums(truth.values[:50], 4))
    assert "rounded_blocks" not in made.attrs
    spins, away = by_rank(fields.values, 4)
    assert away.max() < 1e-5
    inside = fields.values.reshape(50, 4, 4, 4, 4).swapaxes(2, 3).reshape(-1, 16)
    ups = spins.reshape(50, 4, 4, 4, 4).swapaxes(2, 3).reshape(-1, 16) > 0
    lowest = np.where(ups, inside, np.inf).min(axis=1)
    assert (lowest >= np.where(ups, -np.inf, inside).max(axis=1)).all()
    caplog.clear()
    fields[0, :4, :4] += 0.05
    made = sk.relax(fields, 3, factor=4, beta="critical")
    assert made.attrs["rounded_blocks"] == pytest.approx(1 / 800)
    assert "0.125 % of the blocks have averages that 4 x 4 spins have not" in caplog.text
    # without blocks to keep, signs
    np.testing.assert_array_equal(
        sk.relax(fields, 1, beta=0.4), sk.relax(np.where(fields.values < 0, -1, 1), 1, beta=0.4)
    )


@contextmanager
def interrupting(title, total):
    def show(done, note=""):
        if done >= 21:
            raise KeyboardInterrupt

    yield show


@pytest.mark.parametrize("factor", [None, 4])
def test_results_do_not_depend_on_how_they_are_made(truth, tmp_path, monkeypatch, factor):
    """Threads, shards, interruptions, and how many are asked for; a rerun makes nothing."""
    how = {"factor": factor, "seed": 7}
    whole = sk.relax(truth[:40], 4, **how, workers=1)
    monkeypatch.setattr("skild_physics.data_gen.one_by_one.SHARD_SITES", 7 * 256)
    xr.testing.assert_identical(sk.relax(truth[:40], 4, **how, workers=3), whole)
    np.testing.assert_array_equal(sk.relax(truth, 4, **how, samples=9), whole[:9])
    assert (sk.relax(truth[:40], 4, **how | {"seed": 8}) != whole).any()
    for name in ("a.h5", "b.npz", "c"):
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            sk.relax(truth[:40], 4, **how, out=out, progress=interrupting)
        assert not out.exists()
        with pytest.raises(InputError, match="interrupted run with other settings"):
            sk.relax(truth[:40], 5, **how, out=out)
        made = sk.relax(truth[:40], 4, **how, out=out)
        np.testing.assert_array_equal(made, whole)
        with monkeypatch.context() as patch:
            patch.delattr("skild_physics.data_gen.one_by_one.in_shards")
            again = sk.relax(truth[:40], 4, **how, out=out, workers=1)
            xr.testing.assert_identical(again.load(), made.load())
            others = ({"seed": 1}, {"sweeps": 5}, {"beta": 0.3}, {"samples": 9}, {"factor": 2})
            for other in others:
                asked = {"fields": truth[:40], "sweeps": 4} | how | other
                with pytest.raises(InputError, match="exists already; pass `overwrite=True`"):
                    sk.relax(**asked, out=out)
        assert "4 sweeps" in sk.open(out).attrs["relaxed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.npz", "c"]


def test_relaxing_again_draws_other_numbers(truth):
    once = sk.relax(truth[:5], 1)
    twice = sk.relax(once, 1)
    assert (twice.values != sk.relax(truth[:5], 2).values).any()
    said = f"1 sweep of heat bath, beta = {BETA_CRITICAL:.10g}"
    assert once.relaxed == said
    assert twice.relaxed == f"{said}; {said}"


def test_whoever_was_relaxed_is_named(truth, tmp_path):
    """In tables of results, after these were saved, too, and what a file says of itself."""
    part = truth[100:140]
    coarse = sk.coarse_grain(part, factor=4)
    exact = sk.sample_exact(coarse, 4, sweeps=30)
    made = sk.relax(exact, 2, factor=4, out=tmp_path / "made.h5")
    assert "2 sweeps of exchanges within 4 x 4 blocks" in sk.info(made).values["relaxed"]
    said = "(made was relaxed: 2 sweeps of exchanges within 4 x 4 blocks, beta = 0.4406867935)"
    known = {"protocol": "relaxation", "protocol_of_input": "observed", "sweeps": 2, "factor": 4}
    assert known.items() <= made.attrs.items()
    result = sk.eval_correlators(truth=truth, made=made, out=tmp_path / "c.nc")
    # compared with the fields that the coarse ones were made of
    assert int(result.dataset["n_pairs"].sel(source="made")) == 40
    drawn = sk.eval_draws(truth=truth, exact=exact, made=made, out=tmp_path / "d.nc")
    for each in (result, drawn, sk.Correlators.load(tmp_path / "c.nc")):
        assert said in " ".join(repr(each).split())
    assert "relaxed" not in repr(sk.eval_correlators(truth=truth, exact=exact))


BAD = (
    ({"sweeps": 0}, "`sweeps` must be at least 1"),
    ({"sweeps": 2.5}, "`sweeps` must be an integer"),
    ({"factor": 1}, "`factor` must be at least 2"),
    ({"factor": 3}, "`factor` must divide 16, got 3"),
    ({"beta": np.inf}, "`beta` must be finite"),
    ({"beta": "hot"}, "`beta` must be a number"),
    ({"workers": 0}, "`workers` must be at least 1"),
    ({"seed": -1}, "`seed` must be at least 0"),
    ({"overwrite": True}, "`overwrite` goes with `out`"),
    ({"boundary": "open"}, "says boundary = periodic"),
)


@pytest.mark.parametrize(("wrong", "said"), BAD)
def test_what_cannot_be_is_refused(truth, wrong, said):
    with pytest.raises(InputError, match=said) as error:
        sk.relax(**{"fields": truth[:4], "sweeps": 1} | wrong)
    assert "\n" not in str(error.value)


def test_other_fields_are_refused(truth):
    bare, rng = truth.values[:4], np.random.default_rng(0)
    holed = bare.astype(np.float32)
    holed[3, 2, 1] = np.nan
    several = truth[:4].assign_coords(beta=("sample", [0.1, 0.2, 0.3, 0.4]))
    for fields, said in (
        (bare, "array: does not say its temperature; pass `beta`, as `beta=critical`"),
        (sk.coarse_grain(truth[:4], factor=4), "is coarse-grained by box"),
        (rng.normal(size=(4, 3, 16, 16)).astype(np.float32), "has 3 channels"),
        (rng.normal(size=(2, 16, 16)).cumsum(1).cumsum(2), "pass `boundary=periodic`"),
        (bare[:, :2, :2], "2 x 2 fields; sides lie in 3"),
        (several, "fields of several beta"),
        (truth[:4].assign_attrs(relaxed=[1, 2]), "relaxed"),
    ):
        with pytest.raises(InputError, match=said):
            sk.relax(fields, 1)
    three = rng.integers(-1, 2, (4, 16, 16))
    for fields, said in ((holed, "field 3 holds nan"), (three, r"integers are spins, -1 and \+1")):
        with pytest.raises(InputError, match=said):
            sk.relax(fields, 1, beta=0.4, boundary="periodic")


def test_beta_is_that_of_the_fields_or_asked_for(truth, caplog):
    assert sk.relax(truth[:2], 1).beta == BETA_CRITICAL
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert sk.relax(truth[:2], 1, beta=0.3).beta == 0.3
    assert "are at beta = 0.4406867935, not these" in caplog.text


def test_the_command(tmp_path):
    sk.generate_ising(L=16, samples=12, seed=1, out=tmp_path / "held.h5").close()
    done = run("relax held.h5 --sweeps 3 --factor 4 --seed 5 --out made.h5", tmp_path)
    assert done.stdout == "made.h5\n"
    assert "3 sweeps of exchanges within 4 x 4 blocks" in done.stderr
    called = sk.relax(tmp_path / "held.h5", 3, factor=4, seed=5)
    np.testing.assert_array_equal(sk.open(tmp_path / "made.h5"), called)
    before = (tmp_path / "made.h5").read_bytes()
    done = run("relax held.h5 --sweeps 3 --factor 4 --seed 5 --out made.h5", tmp_path)
    assert "already" in done.stderr
    assert (tmp_path / "made.h5").read_bytes() == before
    done = run("relax held.h5 --sweeps 3 --factor 3 --out x.h5", tmp_path, code=2)
    assert "--factor must divide 16, got 3" in done.stderr
