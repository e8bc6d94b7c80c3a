"""Super-resolution of Ising fields judged by exact draws of what the same block sums allow.

Given its block sums, a true field is a draw from the conditional Boltzmann distribution, as each of
the exact draws is. So is each field of a perfect model, which therefore agrees with them in every
mean, overlaps with the truth as much as they do among each other, and in any statistic has every
rank among D of them with probability 1/(D + 1); equal values are ranked by lot. Errors are
delete-one jackknife over fields, whose draws stay together.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.special import chdtrc

from skild_physics.fields.identity import identity
from skild_physics.fields.lazy import batches
from skild_physics.fields.sources import Opening
from skild_physics.files import InputError, check_apart, check_none_given
from skild_physics.memory import check_memory
from skild_physics.observables.blocks import (
    block_sums,
    boundary_energy,
    inner_bonds,
    staggered_moment,
)
from skild_physics.observables.draw_results import SCHEMA, SCHEMA_VERSION, STATISTICS, Draws
from skild_physics.observables.energy import energy_per_spin
from skild_physics.observables.jackknife import Estimate, jackknife
from skild_physics.observables.sources import opened_fields, relaxed_sources
from skild_physics.progress import logger
from skild_physics.requests import check_result, is_made, matches, request
from skild_physics.schema import plain_attributes, validated

FEWEST_IN_CELL = 5
Array = NDArray[np.float64]


def eval_draws(
    sources: Mapping[str, Any] | None = None,
    /,
    *,
    factor: int | None = None,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **labelled: Any,
) -> Draws:
    """How far fields made from block averages are from exact draws of the same averages.

    The first source is the truth, the second holds exact draws of its fields, see
    :func:`skild_physics.data_gen.draws.sample_exact`, the more the sharper; the others are judged.
    Continuous fields are taken by their signs. A source with several fields of one `sample` has so
    many draws of each; what is compared are the fields that all sources have.

    Args:
        sources: label to fields, anything that :func:`skild_physics.fields.open_fields` takes.
        factor: side of the blocks; None: as the exact draws say.
        L: of arrays of which nothing is known, the side of flattened fields.
        dims: what each axis of such arrays is.
        out: NetCDF file to write; if it holds what is asked for already, that is returned.
        overwrite: replace an existing file.
        labelled: further sources, by their labels.

    Raises:
        InputError: fewer than two sources or eight fields in common, lattices of different sizes or
            no torus, unequal numbers of draws of the fields of a source, no or a wrong factor, or
            exact draws of other block sums than the truth's.

    Example:
        >>> import skild_physics as sk
        >>> truth = sk.generate_ising(L=16, samples=40)
        >>> exact = sk.sample_exact(sk.coarse_grain(truth, factor=4), factor=4, draws=3)
        >>> result = sk.eval_draws(truth=truth, exact=exact, model=sk.sample_exact(
        ...     sk.coarse_grain(truth, factor=4), factor=4, seed=1))
        >>> float(result.dataset["right_sums"].sel(source="model"))
        1.0
    """
    twice = set(sources or ()) & set(labelled)
    if twice:
        raise InputError(f"label {min(twice)!r} is given twice")
    given = {**(sources or {}), **labelled}
    if len(given) < 2:
        raise InputError("takes the truth and exact draws, and what is to be judged by them")
    if out is None:
        check_none_given({"overwrite": overwrite}, "goes with `out`")
    else:
        check_result(out, overwrite)
        check_apart({"out": out}, *given.values())
    of_arrays: Opening = {"L": L, "dims": dims}
    with ExitStack() as stack:
        opened: dict[str, xr.DataArray] = {}
        for label, source in given.items():
            opened[label] = opened_fields(label, source, of_arrays)
            if not isinstance(source, xr.DataArray):
                stack.callback(opened[label].close)
        truth, exact = list(opened)[:2]
        side = opened[truth].shape[-1]
        for label, fields in opened.items():
            if fields.shape[-1] != side:
                raise InputError(
                    f"{label} has {fields.shape[-1]} sites per side, {truth} has {side}"
                )
            if fields.attrs.get("boundary") == "open" or fields.attrs.get("basis") == "cosine":
                raise InputError(f"{label}: patches, boundary open; exact draws are of a torus")
        b = _factor(factor, opened[exact], exact)
        if not isinstance(b, int | np.integer) or b < 2 or side % b:
            raise InputError(f"`factor` must divide {side}, got {b}")
        asked = None
        if out is not None:
            whole = [(label, identity(given[label], each)) for label, each in opened.items()]
            asked = request(what="eval-draws", factor=b, sources=whole)
            if is_made(Path(out), asked, overwrite):
                return Draws.load(out)
        relaxed = relaxed_sources(opened)
        # spins as they are read, in one piece, and those in common
        check_memory("the fields", 3.0 * sum(fields.size for fields in opened.values()))
        spins = _common(opened)
    kept = block_sums(spins[truth][:, 0], b)
    if not np.array_equal(block_sums(spins[exact][:, 0], b), kept):
        raise InputError(f"{exact}: has other sums of {b} x {b} spins than {truth}")
    measured = {label: _measured(fields, spins[truth], kept, b) for label, fields in spins.items()}
    result = Draws(_dataset(measured, kept, b, side).assign_attrs(relaxed))
    if out is None:
        return result
    # somebody may have put another file there meanwhile
    if asked is not None and not matches(Path(out), asked, overwrite):
        result.save(out, asked)
    # the same as the next time
    return Draws.load(out)


class _Exact(BaseModel):
    """What exact draws say of themselves."""

    factor: int | None = None


def _factor(factor: int | None, exact: xr.DataArray, label: str) -> int:
    if factor is not None:
        return factor
    said = validated(_Exact, plain_attributes(exact.attrs), label).factor
    if said is None:
        raise InputError(f"{label}: does not say the side of its blocks; pass `factor`")
    return said


def _common(opened: Mapping[str, xr.DataArray]) -> dict[str, NDArray[np.int8]]:
    """Spins (field, draw, L, L) of every source, of the samples that all of them have."""
    samples = {
        label: fields["sample"].values if "sample" in fields.coords else np.arange(len(fields))
        for label, fields in opened.items()
    }
    common, *others = (np.unique(each) for each in samples.values())
    truth = next(iter(opened))
    if len(common) < len(samples[truth]):
        raise InputError(f"{truth}: has several fields of one `sample`; the truth is one")
    for each in others:
        common = np.intersect1d(common, each)
    if len(common) < 8:
        raise InputError(f"the sources have {len(common)} fields in common; 8 are needed")
    if len(common) < len(samples[truth]):
        logger.info(f"{len(common)} of {len(samples[truth])} fields of {truth} are in all sources")
    found = {}
    for label, fields in opened.items():
        (places,) = np.nonzero(np.isin(samples[label], common))
        places = places[np.argsort(samples[label][places], kind="stable")]
        counts = np.unique(samples[label][places], return_counts=True)[1]
        if len(set(counts)) > 1:
            raise InputError(
                f"{label}: has {counts.min()} draws of some fields, {counts.max()} of others"
            )
        signs = [np.where(part[:, 0] >= 0, 1, -1).astype(np.int8) for part in batches(fields)]
        of_all = np.concatenate(signs)[places]
        found[label] = of_all.reshape(len(common), counts[0], *of_all.shape[1:])
    return found


@dataclass(frozen=True)
class _Measured:
    """A source, field by field.

    Attributes:
        statistics: of every draw, (field, draw, statistic).
        overlap: with the truth, mean over draws, (field,).
        overlap_of_draws: mean over pairs of draws, (field,); nan of a single one.
        right_sums: share of blocks that have the given sum, (field,).
        inner: -s s' summed over the bonds within blocks of every |sum|, mean over draws, (field,
            class).
    """

    statistics: Array
    overlap: Array
    overlap_of_draws: Array
    right_sums: Array
    inner: Array


def _measured(
    spins: NDArray[np.int8], truth: NDArray[np.int8], kept: NDArray[np.int64], b: int
) -> _Measured:
    n, D, L, _ = spins.shape
    flat, of_blocks = spins.reshape(n * D, L, L), (n, D, *kept.shape[1:])
    columns = energy_per_spin(flat), boundary_energy(flat, b), staggered_moment(flat, b)
    total = spins.sum(axis=1, dtype=np.int64)
    pairs = np.square(total).mean(axis=(1, 2)) - D
    bonds = inner_bonds(flat, b).reshape(of_blocks).mean(axis=1)
    inner = [-np.where(np.abs(kept) == c, bonds, 0).sum(axis=(1, 2)) for c in _classes(b)]
    is_right = block_sums(flat, b).reshape(of_blocks) == kept[:, None]
    return _Measured(
        statistics=np.stack(columns, axis=-1).reshape(n, D, -1),
        overlap=(total * truth[:, 0]).mean(axis=(1, 2)) / D,
        overlap_of_draws=pairs / (D * (D - 1)) if D > 1 else np.full(n, np.nan),
        right_sums=is_right.mean(axis=(1, 2, 3)),
        inner=np.stack(inner, axis=1),
    )


def _classes(b: int) -> NDArray[np.int64]:
    """|sums| of b x b spins that leave something open."""
    return np.arange(b % 2, b * b, 2)


def ranks(one: Array, many: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of many (field, draw) are below one (field,), equal ones by lot: 0 .. draws."""
    below, equal = (many < one[:, None]).sum(axis=1), (many == one[:, None]).sum(axis=1)
    return np.asarray(below + rng.integers(0, equal + 1))


def uniformity(found: NDArray[np.int64], draws: int) -> float:
    """p-value of chi-square of ranks 0 .. draws against equal probabilities, nan of too few fields.

    Neighbouring ranks go together until five are expected in each cell.
    """
    cells = min(draws + 1, len(found) // FEWEST_IN_CELL)
    if cells < 2:
        return float("nan")
    of_rank = np.arange(draws + 1) * cells // (draws + 1)
    expected = np.bincount(of_rank) * len(found) / (draws + 1)
    counts = np.bincount(of_rank[found], minlength=cells)
    return float(chdtrc(cells - 1, ((counts - expected) ** 2 / expected).sum()))


def _row(
    each: _Measured,
    truth: _Measured,
    exact: _Measured,
    kept: NDArray[np.int64],
    b: int,
    rng: np.random.Generator,
) -> xr.Dataset:
    """What is known of one source."""
    found: dict[str, Any] = {"draws": each.statistics.shape[1]}

    def add(name: str, dims: tuple[str, ...], estimate: Estimate) -> None:
        found[name], found[f"{name}_stderr"] = ((dims, part) for part in estimate)

    def mean(values: Array) -> Estimate:
        return jackknife(values, lambda of_fields: of_fields)

    for name in ("overlap", "overlap_of_draws", "right_sums"):
        add(name, (), mean(getattr(each, name)))
    values, standard = (source.statistics.mean(axis=1) for source in (each, exact))
    add("value", ("statistic",), mean(values))
    add("difference", ("statistic",), mean(values - standard))
    classes = _classes(b)
    counts = np.stack([(np.abs(kept) == c).sum(axis=(1, 2)) for c in classes], axis=1)

    def per_bond(of_fields: Array) -> Array:
        sums, blocks = of_fields.reshape(2, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(sums / blocks / (2 * b * (b - 1)))

    for name, sums in (("inner", each.inner), ("inner_difference", each.inner - exact.inner)):
        add(name, ("block_sum",), jackknife(np.hstack([sums, counts]), per_bond))
    compared = {
        "truth_rank": (each is truth, truth.statistics[:, 0], each.statistics),
        "rank": (each is truth or each is exact, each.statistics[:, 0], exact.statistics),
    }
    for name, (is_itself, one, many) in compared.items():
        of = [ranks(one[:, k], many[..., k], rng) for k in range(len(STATISTICS))]
        draws = many.shape[1]
        shown = [np.nan if is_itself else ranked.mean() / draws for ranked in of]
        p = [np.nan if is_itself else uniformity(ranked, draws) for ranked in of]
        found[name], found[f"{name}_p_value"] = ("statistic", shown), ("statistic", p)
    coords = {"statistic": list(STATISTICS), "block_sum": classes}
    return xr.Dataset(found, coords)


def _dataset(
    measured: Mapping[str, _Measured], kept: NDArray[np.int64], b: int, side: int
) -> xr.Dataset:
    truth, exact = list(measured.values())[:2]
    rng = np.random.default_rng(0)
    rows = [_row(each, truth, exact, kept, b, rng) for each in measured.values()]
    source = xr.DataArray(list(measured), dims="source", name="source")
    share = [(np.abs(kept) == c).mean() for c in _classes(b)]
    return (
        xr.concat(rows, source)
        .assign(share=("block_sum", share))
        .assign_attrs(
            schema=SCHEMA,
            schema_version=SCHEMA_VERSION,
            L=side,
            factor=b,
            n_fields=len(kept),
            stderr="delete-one jackknife over fields",
        )
    )
