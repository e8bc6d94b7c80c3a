"""Evaluate several sources of fields against the first, which is the truth.

Blocks of the jackknife are as long as the chains ask for: a block of length l underestimates the
variance of a mean by the share (tau - 1/(4 tau)) / l if correlations decay exponentially with the
integrated autocorrelation time tau, and this is kept below 5 %. Fewer than eight fields have no
error bars: they are nan.

Where fields of a source and of the truth belong together, their difference is jackknifed on common
blocks of such pairs, so that fluctuations both share cancel. So is that of as many fields that have
nothing to do with each other: then nothing cancels, and the error is that of independent fields.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.cluster import dask_client
from skild_physics.fields.identity import identity
from skild_physics.fields.sources import Opening
from skild_physics.fields.values import DataRange
from skild_physics.files import InputError, check_apart
from skild_physics.observables.arrays import Row, dataset_of
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.formulas import observables
from skild_physics.observables.jackknife import Estimate, Replicas, chi_square, replicas_of
from skild_physics.observables.measure import Blocks, Boundary, Plan, measure, measure_on
from skild_physics.observables.results import Correlators, Resampled
from skild_physics.observables.sources import (
    Binarize,
    Taken,
    betas_of,
    binarized,
    boundary_of,
    check,
    opened_fields,
    provenance,
)
from skild_physics.progress import Progress, logger, silent
from skild_physics.requests import check_result, is_made, matches, request

FINE_BLOCKS = 1024
MOST_BLOCKS, FEWEST_BLOCKS = 128, 16
BIAS = 0.05
MADE_FROM_FIELDS = ("paired", "observed", "interpolation", "reconstruction", "super-resolution")
"""Protocols, in attributes, whose results correspond to the fields that they started from."""


def eval_correlators(
    sources: Mapping[str, Any] | Any = None,
    /,
    *,
    sides: Sequence[int] | None = None,
    binarize: Binarize = "both",
    boundary: Boundary | None = None,
    block_spins: int = 0,
    clusters: bool = False,
    scheduler: str | None = None,
    beta: float | None = None,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    data_range: DataRange | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **labelled: Any,
) -> Correlators:
    """Correlators and other observables of fields, and how far they are from those of the truth.

    The first source is the truth. A source that has as many fields as the truth is compared with it
    field by field, and so is one that was made from some of the truth's fields, as its attribute
    "protocol" and the integer coordinates `sample` of both say; the errors of other differences are
    those of independent fields.

    Every source has the inverse temperature of its own attribute "beta", or else the one passed;
    where neither is known, susceptibility and specific heat are nan.

    Args:
        sources: label to fields, anything that :func:`skild_physics.fields.open_fields` takes, of
            one channel; or one source, which is called "fields" then.
        sides: sides r of the squares in lattice spacings; None: powers of two up to L/2.
        binarize: of continuous fields take the "sign", "none", or "both", as two sources, the
            second of which is called "LABEL (raw)". Block spins are made of signs only.
        boundary: "periodic", or "open" for patches, around which nothing goes; None: what the
            attributes "boundary" of the sources say, or a basis of cosines, or else periodic.
        block_spins: the same after up to so many rounds of majority block spins of 2 x 2.
        clusters: measure clusters of equal spins, too; slower.
        scheduler: address of a Dask scheduler whose workers see the files and measure them.
        beta: inverse temperature in 1/J of sources whose attributes have none.
        L: of arrays of which nothing is known, as the next two, see
            :func:`skild_physics.fields.open_fields`: side of flattened ones.
        dims: what each axis is.
        data_range: the values of spins down and up, or of black and white.
        out: NetCDF file to write; if it holds what is asked for already, that is returned, without
            the jackknife replicas.
        overwrite: replace an existing file.
        progress: see :mod:`skild_physics.progress`.
        labelled: further sources, by their labels.

    Raises:
        InputError: no sources, a label given twice, different lattice sizes or boundaries, a single
            field, nan, codes of missing values, spins other than -1 and +1, `sides` or
            `block_spins` that the lattice does not have, or `beta` where every source has its own.

    Example:
        >>> import numpy as np
        >>> import skild_physics as sk
        >>> spins = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (64, 8, 8))
        >>> result = sk.eval_correlators(truth=spins, flipped=-spins)
        >>> float(abs(result.residual("kappa4")).max())
        0.0
    """
    if sources is not None and not isinstance(sources, Mapping):
        sources = {"fields": sources}
    twice = set(sources or ()) & set(labelled)
    if twice:
        raise InputError(f"label {min(twice)!r} is given twice")
    named = {**(sources or {}), **labelled}
    if out is not None:
        check_result(out, overwrite)
        check_apart({"out": out}, *named.values())
    with ExitStack() as stack:
        opened: dict[str, xr.DataArray] = {}
        of_arrays: Opening = {"L": L, "dims": dims, "data_range": data_range}
        for label, source in named.items():
            opened[label] = opened_fields(label, source, of_arrays)
            if not isinstance(source, xr.DataArray):
                stack.callback(opened[label].close)
        if not opened:
            raise InputError("nothing to evaluate")
        plan = Plan(
            None if sides is None else tuple(sides),
            boundary_of(opened, boundary),
            block_spins=block_spins,
            clusters=clusters,
        )
        check(opened, plan)
        taken = binarized(opened, plan, binarize, betas_of(opened, beta))
        pictures = {label: fields[0].values for label, fields in opened.items()}
        asked = None
        if out is not None:
            asked = request(
                what="eval-correlators",
                plan=asdict(plan),
                binarize=binarize,
                beta=beta,
                sources=[(label, identity(named[label], each)) for label, each in opened.items()],
            )
            if is_made(Path(out), asked, overwrite):
                return Correlators(Correlators.load(out).datasets, pictures)
        client = stack.enter_context(dask_client(scheduler)) if scheduler else None
        found = {label: _measured(label, each, client, progress) for label, each in taken.items()}
        truth, partners = _partners(found, client, progress)
        made = provenance(opened)
    replicas = cache(_Measured.replicas)
    datasets = []
    for k, blocks in enumerate(truth.rounds):
        rows = {
            label: _row(each, truth, partners[label], k, replicas)
            for label, each in found.items()
            if len(each.rounds) > k
        }
        datasets.append(dataset_of(rows, blocks.L, k, plan).assign_attrs(made))
    # on blocks in common, so that what is computed from them knows which sources are paired
    common = min(each.n_blocks for label, each in found.items() if partners[label] is truth)
    kept = {
        label: Resampled(next(iter(found)), replicas(each, 0, common))
        if partners[label] is truth
        else Resampled(label, replicas(each, 0, each.n_blocks))
        for label, each in found.items()
    }
    if out is not None and asked is not None:
        # somebody may have put another file there meanwhile
        if not matches(Path(out), asked, overwrite):
            Correlators(datasets).save(out, asked)
        # the same as the next time
        datasets = list(Correlators.load(out).datasets)
    return Correlators(datasets, pictures, kept)


def block_length(tau_int: float) -> float:
    """Successive samples of a chain that a block must hold, see the head of this module."""
    return (tau_int - 0.25 / tau_int) / BIAS if tau_int > 0.5 else 0.0


@dataclass(frozen=True, eq=False)
class _Measured:
    """A measured source: its blocks of every round, and how its samples are correlated."""

    source: Taken
    rounds: list[Blocks]
    tau_int: float
    stride: int

    @property
    def n(self) -> int:
        return len(self.source.fields)

    @property
    def n_blocks(self) -> int:
        """As many as there may be without neglecting correlations."""
        length = block_length(self.tau_int) * self.stride
        wanted = int(self.n / max(length, 1))
        return min(self.n, MOST_BLOCKS, max(FEWEST_BLOCKS, wanted))

    def replicas(self, k: int, n_blocks: int) -> dict[str, Replicas]:
        """Observables after k rounds of block spins, jackknifed on so many blocks."""
        blocks, source = self.rounds[k], self.source
        edges = np.linspace(0, len(blocks.counts), n_blocks + 1).astype(int)[:-1]
        return replicas_of(
            {name: np.add.reduceat(rows, edges, axis=0) for name, rows in blocks.sums.items()},
            np.add.reduceat(blocks.counts, edges),
            lambda mean: observables(mean, blocks.L, source.beta, source.plan.boundary),
        )


def _measured(label: str, source: Taken, client: Any, progress: Progress) -> _Measured:
    logger.info(f"measuring {label}")
    fields, plan = source.fields, source.plan
    n_blocks = min(len(fields), FINE_BLOCKS)
    measurement = measure if client is None else partial(measure_on, client)
    try:
        with progress(f"measure {label}", len(fields)) as show:
            rounds = measurement(fields, plan, n_blocks, progress=show)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    if plan.binarize and fields.dtype != np.int8 and (rounds[0].magnetization == 1).all():
        logger.warning(f"{label}: no value is negative, so all signs are +; take `binarize=none`?")
    return _Measured(source, rounds, *_correlation(fields, rounds[0]))


def _correlation(fields: xr.DataArray, blocks: Blocks) -> tuple[float, int]:
    """The longer tau_int of energy and m^2, and the distance in the file of successive samples."""
    chain = fields.coords["chain"].values if "chain" in fields.coords else np.zeros(len(fields))
    places = [np.flatnonzero(chain == c) for c in np.unique(chain)]
    length = min(map(len, places))
    if length < 8:
        return 0.5, 1
    stride = max(int(np.median(np.diff(p))) for p in places)
    taus = [
        integrated_autocorrelation_time(np.stack([series[p[:length]] for p in places])).tau_int
        for series in (blocks.energy, blocks.magnetization**2)
    ]
    return max(taus), stride


def _partners(
    found: Mapping[str, _Measured], client: Any, progress: Progress
) -> tuple[_Measured, dict[str, _Measured | None]]:
    """The truth, and those of its fields that each source is to be compared with one by one."""
    label_of_truth, truth = next(iter(found.items()))
    selected: dict[bytes, _Measured] = {}
    partners: dict[str, _Measured | None] = {}
    for label, each in found.items():
        places = _places(each.source.fields, truth.source.fields)
        if places is None:
            partners[label] = truth if each.n == truth.n else None
            continue
        key = places.tobytes()
        if key not in selected:
            fields = truth.source.fields.isel(sample=places)
            title = f"{label_of_truth}, the fields of {label}"
            selected[key] = _measured(title, replace(truth.source, fields=fields), client, progress)
        partners[label] = selected[key]
    return truth, partners


def _places(fields: xr.DataArray, truth: xr.DataArray) -> NDArray[np.int64] | None:
    """Where in the truth the fields are that these were made from; None: unknown, or the same."""
    # of relaxed fields, how these were made before
    protocol = fields.attrs.get("protocol_of_input", fields.attrs.get("protocol"))
    if protocol not in MADE_FROM_FIELDS:
        return None
    if any("sample" not in x.coords or x["sample"].dtype.kind not in "iu" for x in (fields, truth)):
        return None
    ours, theirs = fields["sample"].values, truth["sample"].values
    where = {int(sample): place for place, sample in enumerate(theirs)}
    wanted = [int(sample) for sample in ours]
    unique = len(where) == len(theirs) and len(set(wanted)) == len(wanted)
    if np.array_equal(ours, theirs) or not unique or not where.keys() >= set(wanted):
        return None
    return np.array([where[sample] for sample in wanted])


def _row(
    each: _Measured,
    truth: _Measured,
    partner: _Measured | None,
    k: int,
    replicas: Callable[[_Measured, int, int], dict[str, Replicas]],
) -> Row:
    """A source after k rounds of block spins."""
    values = replicas(each, k, each.n_blocks)
    n_blocks = min(each.n_blocks, (partner or truth).n_blocks)
    residuals = {}
    if partner is not None:
        ours, theirs = replicas(each, k, n_blocks), replicas(partner, k, n_blocks)
        for name in ours.keys() & theirs.keys():
            pairs = ours[name] - theirs[name]
            residuals[name] = Estimate(pairs.value, pairs.stderr)
        covariance = (ours["kappa4"] - theirs["kappa4"]).covariance
    else:
        theirs = replicas(truth, k, truth.n_blocks)
        for name in values.keys() & theirs.keys():
            a, b = values[name], theirs[name]
            residuals[name] = Estimate(a.value - b.value, np.hypot(a.stderr, b.stderr))
        covariance = values["kappa4"].covariance + theirs["kappa4"].covariance
    return Row(
        values=values,
        residuals=residuals,
        test=chi_square(residuals["kappa4"].value, covariance, n_blocks),
        beta=each.source.beta,
        tau_int=each.tau_int,
        n_samples=each.n,
        n_pairs=0 if partner is None else each.n,
        n_blocks=each.n_blocks,
    )
