"""Draws of spins given their block sums, against enumeration and against true fields."""

from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import xarray as xr
from command_line import run
from scipy import stats

import skild_physics as sk
from skild_physics.claims import work_folder
from skild_physics.data_gen.exchange import (
    exchange_draw,
    exchange_samples,
    exchange_thresholds,
    shuffled,
)
from skild_physics.data_gen.relaxation import tau_int_of_exchanges
from skild_physics.files import InputError
from skild_physics.observables.blocks import (
    block_sums,
    boundary_energy,
    inner_bonds,
    staggered_moment,
)
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.xoshiro import seed_state

STATES = np.array(list(product((-1, 1), repeat=16)), np.int8).reshape(-1, 4, 4)
SUMS = block_sums(STATES, 2)
UPS = ([[2, 2], [2, 2]], [[1, 2], [3, 2]], [[0, 2], [4, 1]], [[1, 0], [0, 0]])


def conditional(ups, beta):
    """States of these block sums, as indices, and their exact probabilities."""
    (allowed,) = np.nonzero((2 * np.array(ups) - 4 == SUMS).all(axis=(1, 2)))
    weights = np.exp(-beta * 16 * energy_per_spin(STATES[allowed]))
    return allowed, weights / weights.sum()


def index_of(spins):
    return (spins.reshape(len(spins), 16) > 0) @ (1 << np.arange(15, -1, -1))


def p_value(spins, ups, beta):
    """Of the whole distribution; states that are expected less than ten times go together."""
    allowed, probability = conditional(ups, beta)
    counts = np.bincount(index_of(spins), minlength=2**16)
    assert counts[allowed].sum() == len(spins)
    order = np.argsort(probability)
    expected = probability[order] * len(spins)
    cells = np.cumsum(expected) // 10
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    expected = np.add.reduceat(expected, starts)
    return stats.chisquare(np.add.reduceat(counts[allowed[order]], starts), expected).pvalue


@pytest.mark.parametrize("beta", [BETA_CRITICAL, 0.6, 0.0, -0.4])
@pytest.mark.parametrize("ups", UPS)
def test_a_chain_has_the_exact_distribution(ups, beta):
    spins = np.empty((4, 4), np.int8)
    rng = seed_state(1, 2)
    shuffled(np.array(ups), rng, spins)
    out = np.empty((40_000, 4, 4), np.int8)
    exchange_samples(spins, 2, rng, exchange_thresholds(beta), 60, out)
    assert p_value(out, ups, beta) > 1e-5


def test_the_distribution_test_sees_another_temperature():
    """By 4 per cent, and a state that is left out."""
    spins, out = STATES[conditional(UPS[0], 0)[0][0]].copy(), np.empty((40_000, 4, 4), np.int8)
    exchange_samples(spins, 2, seed_state(1, 2), exchange_thresholds(0.46), 25, out)
    assert p_value(out, UPS[0], BETA_CRITICAL) < 1e-8


def test_shuffled_spins_are_all_alike():
    ups, rng = np.array(UPS[1]), seed_state(0, 0)
    out = np.empty((20_000, 4, 4), np.int8)
    for each in out:
        shuffled(ups, rng, each)
    assert p_value(out, ups, 0.0) > 1e-5


@pytest.mark.parametrize("beta", [BETA_CRITICAL, -0.6])
def test_draws_have_the_exact_distribution(beta):
    """With the number of sweeps that the pilot gives, from their own start each."""
    coarse = (2 * np.array(UPS[1]) - 4) / 4.0
    drawn = sk.sample_exact(np.tile(coarse, (2, 1, 1)), 2, draws=4000, beta=beta, seed=3)
    assert drawn.shape == (8000, 4, 4)
    assert p_value(drawn.values, UPS[1], beta) > 1e-5


def test_exchanges_in_blocks_as_wide_as_the_lattice():
    """A block is its own neighbour; one exchange can change the energy by 16."""
    spins = np.ones((3, 3), np.int8)
    spins[0, :2] = spins[1, 1] = -1
    states = np.array(list(product((-1, 1), repeat=9)), np.int8).reshape(-1, 3, 3)
    states = states[states.sum(axis=(1, 2)) == 3]
    weights = np.exp(-0.3 * 9 * energy_per_spin(states))
    out = np.empty((40_000, 3, 3), np.int8)
    exchange_samples(spins, 3, seed_state(0, 0), exchange_thresholds(0.3), 20, out)
    code = 1 << np.arange(9)
    places = {number: i for i, number in enumerate((states.reshape(-1, 9) > 0) @ code)}
    counts = np.zeros(len(states))
    for number in (out.reshape(-1, 9) > 0) @ code:
        counts[places[number]] += 1
    assert stats.chisquare(counts, weights / weights.sum() * len(out)).pvalue > 1e-5


STATISTICS = {
    "energy": lambda s, b: energy_per_spin(s),
    "boundary": boundary_energy,
    "staggered": staggered_moment,
    "inner": lambda s, b: inner_bonds(s, b).mean(axis=(1, 2)),
}


@pytest.fixture(scope="module")
def truth():
    return sk.generate_ising(L=16, samples=2000, seed=11)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_true_fields_are_exact_draws(truth, factor):
    """Neither exchanges from them, nor draws from shuffled spins, differ from them."""
    moved = np.empty_like(truth.values)
    thresholds = exchange_thresholds(BETA_CRITICAL)
    for i, field in enumerate(truth.values.copy()):
        exchange_samples(field, factor, seed_state(5, i), thresholds, 8, moved[i : i + 1])
    drawn = sk.sample_exact(sk.coarse_grain(truth, factor=factor), factor, draws=2, seed=1).values
    for made in (moved, drawn[::2]):
        np.testing.assert_array_equal(block_sums(made, factor), block_sums(truth.values, factor))
        assert (made != truth.values).any(axis=(1, 2)).mean() > 0.5
        for name, statistic in STATISTICS.items():
            away = statistic(made, factor) - statistic(truth.values, factor)
            assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(len(away)), name
    # the truth is a draw like any other
    away = (drawn[::2] * (truth.values - drawn[1::2])).mean(axis=(1, 2))
    assert abs(away.mean()) < 4.5 * away.std() / np.sqrt(len(away))


def test_what_blocks_are_made_of(truth):
    """Energies inside and between blocks are all of it."""
    spins = truth.values[:50]
    for b in (2, 4, 8, 16):
        inside = inner_bonds(spins, b).sum(axis=(1, 2))
        bonds = 2 * 16 * 16 // b
        total = -inside + boundary_energy(spins, b) * bonds
        np.testing.assert_allclose(total, 256 * energy_per_spin(spins), atol=1e-9)
    board = np.indices((16, 16)).sum(axis=0) % 2 * 2 - 1
    np.testing.assert_array_equal(staggered_moment(board[None].astype(np.int8), 4), [16])


def test_the_pilot_measures_how_long_exchanges_remember(truth):
    """Against the decay of correlations in one long series; stuck chains are not fast ones."""
    ups = (block_sums(truth.values[:8], 4) + 16) // 2
    tau = tau_int_of_exchanges(ups, 16, BETA_CRITICAL, 0)
    assert 1 < tau < 6
    assert tau == tau_int_of_exchanges(ups, 16, BETA_CRITICAL, 0)
    assert tau_int_of_exchanges(ups, 16, 0.0, 0) == 0.5
    assert tau_int_of_exchanges(np.full((3, 4, 4), 16), 16, 0.4, 0) == 0.5
    stripes = np.full((1, 1, 1), 32)
    assert tau_int_of_exchanges(stripes, 8, 0.7, 0) > 3 * tau_int_of_exchanges(stripes, 8, 0.3, 0)


def test_results_do_not_depend_on_how_they_are_made(truth, tmp_path, monkeypatch):
    """Threads, shards, interruptions, and how many are asked for."""
    coarse = sk.coarse_grain(truth[:40], factor=4)
    how = {"factor": 4, "draws": 3, "seed": 7}
    whole = sk.sample_exact(coarse, **how, workers=1)
    monkeypatch.setattr("skild_physics.data_gen.one_by_one.SHARD_SITES", 7 * 256)
    xr.testing.assert_identical(sk.sample_exact(coarse, **how, workers=3), whole)
    few = sk.sample_exact(coarse[:20], **how | {"draws": 2})
    np.testing.assert_array_equal(few[::2], whole[:60:3])
    np.testing.assert_array_equal(few[1::2], whole[1:60:3])

    @contextmanager
    def interrupting(title, total):
        def show(done, note=""):
            if done >= 50:
                raise KeyboardInterrupt

        yield show

    out = tmp_path / "exact.h5"
    with pytest.raises(KeyboardInterrupt):
        sk.sample_exact(coarse, **how, out=out, progress=interrupting)
    assert not out.exists()
    with pytest.raises(InputError, match="interrupted run with other settings"):
        sk.sample_exact(coarse, **how | {"seed": 8}, out=out)
    written = sk.sample_exact(coarse, **how, out=out)
    np.testing.assert_array_equal(written, whole)
    assert not list(tmp_path.glob(".*"))
    assert written.dtype == np.int8


def test_draws_that_are_there_are_known_again(truth, tmp_path, monkeypatch):
    """By what they were made of; and shards that are damaged are made again."""
    coarse = sk.coarse_grain(truth[:12], factor=4)
    how = {"factor": 4, "draws": 2, "sweeps": 5}
    whole = sk.sample_exact(coarse, **how)
    monkeypatch.setattr("skild_physics.data_gen.one_by_one.SHARD_SITES", 7 * 256)

    @contextmanager
    def interrupting(title, total):
        def show(done, note=""):
            if done >= 14:
                raise KeyboardInterrupt

        yield show

    for name in ("a.h5", "b.npz", "c"):
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            sk.sample_exact(coarse, **how, out=out, progress=interrupting)
        first, second = sorted(work_folder(out).glob("*.npz"))
        np.savez(first, field=np.zeros((7, 1, 16, 16), np.int8))
        second.write_bytes(second.read_bytes()[:-9])
        made = sk.sample_exact(coarse, **how, out=out)
        np.testing.assert_array_equal(made, whole)
        with monkeypatch.context() as patch:
            patch.delattr("skild_physics.data_gen.one_by_one.in_shards")
            again = sk.sample_exact(coarse, **how, out=out, workers=1)
            xr.testing.assert_identical(again.load(), made.load())
            for other in ({"seed": 1}, {"draws": 3}, {"sweeps": 6}, {"beta": 0.3}, {"samples": 9}):
                with pytest.raises(InputError, match="exists already; pass `overwrite=True`"):
                    sk.sample_exact(coarse, **how | other, out=out)
        other = sk.sample_exact(coarse, **how | {"seed": 1}, out=out, overwrite=True)
        assert (other.values != whole.values).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.npz", "c"]


@pytest.mark.parametrize("beta", [1e308, -1e308])
def test_at_zero_temperature_energy_is_never_gained(beta):
    assert set(exchange_thresholds(beta)) == {0, 2**64 - 1}


def test_what_files_say_of_themselves_is_looked_at(truth):
    coarse = sk.coarse_grain(truth[:4], factor=4)
    for wrong in ({"beta_of_input": "hot"}, {"beta_of_input": np.inf}, {"downsampling": [1, 2]}):
        with pytest.raises(InputError, match=f"fields: {next(iter(wrong))}"):
            sk.sample_exact(coarse.assign_attrs(wrong), 4)


def test_draws_pair_with_the_truth(truth, tmp_path):
    part = truth[100:140]
    drawn = sk.sample_exact(sk.coarse_grain(part, factor=4), 4, draws=2, out=tmp_path / "x.h5")
    np.testing.assert_array_equal(drawn["sample"], np.repeat(np.arange(100, 140), 2))
    np.testing.assert_array_equal(drawn["chain"], np.repeat(part["chain"], 2))
    known = {"beta": BETA_CRITICAL, "boundary": "periodic", "factor": 4, "draws": 2, "seed": 0}
    assert known.items() <= drawn.attrs.items()
    assert drawn.attrs["sweeps"] == np.ceil(20 * drawn.attrs["pilot_tau_int"])
    one = sk.sample_exact(sk.coarse_grain(part, factor=4), 4)
    result = sk.eval_correlators(truth=truth, exact=one)
    assert int(result.dataset["n_pairs"].sel(source="exact")) == 40
    residual = result.residual("energy").sel(source="exact")
    assert abs(float(residual)) < 4.5 * float(residual["stderr"])


def test_beta_is_that_of_the_fields_or_asked_for(tmp_path, caplog):
    hot = sk.generate_ising(L=8, samples=4, beta=0.2)
    coarse = sk.coarse_grain(hot, factor=2, out=tmp_path / "coarse.h5")
    assert sk.sample_exact(coarse, 2).beta == 0.2
    assert sk.sample_exact(tmp_path / "coarse.h5", 2).beta == 0.2
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    assert sk.sample_exact(coarse, 2, beta="critical").beta == BETA_CRITICAL
    assert "at beta = 0.2, not these" in caplog.text
    with pytest.raises(InputError, match=r"array: does not say its temperature; pass `beta`"):
        sk.sample_exact(coarse.values, 2)
    foreign = sk.sample_exact(coarse.values, 2, beta=0.2)
    np.testing.assert_array_equal(foreign, sk.sample_exact(coarse, 2))


BAD = (
    ({"factor": 1}, "`factor` must be at least 2"),
    ({"factor": 2.5}, "`factor` must be an integer"),
    ({"factor": 3}, r"fields: field 0 holds .*, no average of 3 x 3 spins: the nearest.*away"),
    ({"draws": 0}, "`draws` must be at least 1"),
    ({"sweeps": -1}, "`sweeps` must be at least 0"),
    ({"sweeps": "many"}, "`sweeps` must be an integer or 'auto'"),
    ({"beta": np.nan}, "`beta` must be finite"),
    ({"beta": "hot"}, "`beta` must be a number"),
    ({"workers": 0}, "`workers` must be at least 1"),
    ({"seed": -1}, "`seed` must be at least 0"),
    ({"overwrite": True}, "`overwrite` goes with `out`"),
)


@pytest.mark.parametrize(("wrong", "said"), BAD)
def test_what_cannot_be_is_refused(truth, wrong, said):
    coarse = sk.coarse_grain(truth[:4], factor=4)
    with pytest.raises(InputError, match=said) as error:
        sk.sample_exact(coarse, **{"factor": 4} | wrong)
    assert "\n" not in str(error.value)


def test_coarse_fields_of_other_kinds_are_refused(truth):
    for kernel in ("spectral", "bicubic"):
        coarse = sk.coarse_grain(truth[:4], factor=4, kernel=kernel)
        with pytest.raises(InputError, match=f"coarse-grained by {kernel}, not block averages"):
            sk.sample_exact(coarse, 4)
    blurred = sk.coarse_grain(truth[:4], factor=4) + 0.003
    with pytest.raises(InputError, match=r"the nearest, [-0-9.]+, is 0\.003 away"):
        sk.sample_exact(blurred, 4, beta=0.4)
    too_large = 16 * sk.coarse_grain(truth[:4], factor=4).values
    with pytest.raises(InputError, match="no average of 4 x 4 spins"):
        sk.sample_exact(too_large, 4, beta=0.4)
    holed = sk.coarse_grain(truth[:20], factor=4)
    holed[17, 2, 3] = np.nan
    with pytest.raises(InputError, match="field 17 holds nan"):
        sk.sample_exact(holed, 4, beta=0.4)
    patches = sk.open(truth[:4].values[:, :8, :8], boundary="open")
    with pytest.raises(InputError, match="boundary open"):
        sk.sample_exact(sk.coarse_grain(patches, factor=4), 4, beta=0.4)


def test_the_command(tmp_path):
    sk.generate_ising(L=16, samples=12, seed=1, out=tmp_path / "held.h5").close()
    run("coarse-grain held.h5 --factor 4 --out coarse.h5", tmp_path)
    done = run("sample-exact coarse.h5 --factor 4 --draws 2 --seed 3 --out exact.h5", tmp_path)
    assert done.stdout == "exact.h5\n"
    called = sk.sample_exact(tmp_path / "coarse.h5", 4, draws=2, seed=3)
    np.testing.assert_array_equal(sk.open(tmp_path / "exact.h5"), called)
    done = run("sample-exact coarse.h5 --factor 3 --out x.h5", tmp_path, code=2)
    assert "is --factor 3 right?" in done.stderr


def test_a_single_draw_needs_no_pilot():
    ups = np.array(UPS[0])
    one, other = (exchange_draw(ups, 4, 0.4, 10, 0, 1, k) for k in (0, 1))
    assert (one != other).any()
