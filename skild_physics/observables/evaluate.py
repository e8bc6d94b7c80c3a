"""Evaluate several sources of fields against the first, which is the truth.

Observables of a lattice of N = L^2 sites, from means <.> over fields (e and m per site):

    susceptibility             chi = beta N (<m^2> - <|m|>^2)
    specific heat              c = beta^2 N (<e^2> - <e>^2)
    Binder parameter           U4 = 1 - <m^4> / (3 <m^2>^2)
    two-point function         G(r) = <s(0) s(r)>
    structure factor           S(k) = <|sum_x s(x) e^(-ikx)|^2> / N
    correlation length         second moment, from S(0) and S(2 pi / L)
    anomalous dimension        eta, from the decay of G along the axes: on the critical torus
                               G(r) = A |theta_1'(0) / theta_1(z)|^eta sum_nu |theta_nu(z/2)|,
                               z = r/L, nome e^-pi (Di Francesco, Saleur and Zuber,
                               Nucl. Phys. B 290, 527 (1987)), here fitted to L/16 <= r <= L/2.

Blocks of the jackknife are as long as the chains ask for: a block of length l underestimates the
variance of a mean by the share (tau - 1/(4 tau)) / l if correlations decay exponentially with the
integrated autocorrelation time tau, and this is kept below 5 %. Fewer than eight fields have no
error bars: they are nan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr

from skild_physics import __version__
from skild_physics.files import InputError, check_none_given
from skild_physics.observables.autocorrelation import integrated_autocorrelation_time
from skild_physics.observables.corners import kappa4
from skild_physics.observables.jackknife import (
    Array,
    Replicas,
    chi_square,
    replicas_of,
)
from skild_physics.observables.measure import (
    Blocks,
    Means,
    Plan,
    magnetization_edges,
    measure,
)
from skild_physics.observables.twopoint import second_moment_correlation_length

Binarize = Literal["sign", "none", "both"]

FINE_BLOCKS = 1024
MOST_BLOCKS, FEWEST_BLOCKS = 128, 16
BIAS = 0.05

UNITS = {
    "kappa4": ("1", "connected four-point correlator, zero-mean form"),
    "kappa4_cumulant": ("1", "fourth joint cumulant of the corners"),
    "energy": ("J", "energy per spin"),
    "abs_magnetization": ("1", "mean absolute magnetisation per spin"),
    "m2": ("1", "mean squared magnetisation per spin"),
    "m4": ("1", "mean fourth power of the magnetisation per spin"),
    "susceptibility": ("1/J", "susceptibility per spin"),
    "specific_heat": ("1", "specific heat per spin"),
    "binder": ("1", "Binder parameter"),
    "correlation_length": ("lattice spacing", "second-moment correlation length"),
    "eta": ("1", "anomalous dimension from the decay of the two-point function"),
    "two_point": ("1", "two-point function"),
    "structure_factor": ("1", "structure factor along the axes"),
    "magnetization_histogram": ("1", "share of fields in a bin of the magnetisation"),
    "near_zero": ("1", "share of sites with |field| < 0.1, before binarisation"),
    "clusters": ("1", "clusters of equal spins per site"),
    "largest_cluster": ("1", "share of sites in the largest cluster"),
    "cluster_sizes": ("1", "clusters in a bin of sizes, per site"),
}
DIMS = {
    "kappa4": ("side",),
    "kappa4_cumulant": ("side",),
    "two_point": ("distance", "direction"),
    "structure_factor": ("mode",),
    "magnetization_histogram": ("m",),
    "cluster_sizes": ("size",),
}


def torus_decay(L: int) -> tuple[Array, Array]:
    """ln |theta_1(r/L) / theta_1'(0)| and ln sum_nu |theta_nu(r/2L)| for r = 1 .. L/2."""
    z = np.arange(1, L // 2 + 1) / L
    n = np.arange(8)
    half, whole = np.exp(-np.pi) ** ((n + 0.5) ** 2), np.exp(-np.pi) ** ((n + 1) ** 2)
    sign = (-1.0) ** n

    def thetas(x: Array) -> list[Array]:
        odd, even = np.pi * np.outer(x, 2 * n + 1), 2 * np.pi * np.outer(x, n + 1)
        return [
            2 * np.sin(odd) @ (sign * half),
            2 * np.cos(odd) @ half,
            1 + 2 * np.cos(even) @ whole,
            1 - 2 * np.cos(even) @ (sign * whole),
        ]

    slope = 2 * np.pi * float((sign * half) @ (2 * n + 1))
    return np.log(thetas(z)[0] / slope), np.log(np.sum(np.abs(thetas(z / 2)), axis=0))


def _eta(G: Array, L: int) -> Array:
    first = max(1, L // 16)
    along = G[first : L // 2 + 1, :2].mean(axis=1)
    if len(along) < 3 or not (along > 0).all():
        return np.array(np.nan)
    distance, sectors = (row[first - 1 :] for row in torus_decay(L))
    away = distance - distance.mean()
    return np.asarray(-(away @ (np.log(along) - sectors)) / (away @ away))


def observables(mean: Means, L: int, beta: float, plan: Plan) -> Means:
    """Observables from the means of the quantities of :func:`measure`."""
    N = L**2
    found = {
        "kappa4": kappa4(mean["corners"]),
        "kappa4_cumulant": kappa4(mean["corners"], zero_mean=False),
        "energy": mean["energy"],
        "abs_magnetization": mean["abs_m"],
        "m2": mean["m2"],
        "m4": mean["m4"],
        "susceptibility": beta * N * (mean["m2"] - mean["abs_m"] ** 2),
        "specific_heat": beta**2 * N * (mean["energy2"] - mean["energy"] ** 2),
        "binder": 1 - mean["m4"] / (3 * mean["m2"] ** 2),
        "two_point": mean["two_point"],
        "magnetization_histogram": mean["histogram"],
    }
    if plan.boundary == "periodic":
        S = mean["structure_factor"]
        found["structure_factor"] = S
        xi = second_moment_correlation_length(S[0], S[1], L)
        found["correlation_length"] = np.where(np.isfinite(xi), xi, np.nan)
        found["eta"] = _eta(mean["two_point"], L)
    for name in ("near_zero", "clusters", "largest_cluster", "cluster_sizes"):
        if name in mean:
            found[name] = mean[name]
    return {name: np.asarray(value) for name, value in found.items()}


def block_length(tau_int: float) -> float:
    """Successive samples of a chain that a block must hold, see the head of this module."""
    return max(0.0, tau_int - 0.25 / tau_int) / BIAS


@dataclass(frozen=True)
class _Source:
    """A measured source: its blocks of every round, and how its samples are correlated."""

    rounds: list[Blocks]
    n: int
    tau_int: float
    stride: int

    @property
    def n_blocks(self) -> int:
        """As many as there may be without neglecting correlations."""
        length = block_length(self.tau_int) * self.stride
        wanted = int(self.n / max(length, 1))
        return min(self.n, MOST_BLOCKS, max(FEWEST_BLOCKS, wanted))


def _merged(blocks: Blocks, n_blocks: int) -> tuple[Means, np.ndarray]:
    edges = np.linspace(0, len(blocks.counts), n_blocks + 1).astype(int)[:-1]
    sums = {name: np.add.reduceat(rows, edges, axis=0) for name, rows in blocks.sums.items()}
    return sums, np.add.reduceat(blocks.counts, edges)


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


Measure = Callable[[xr.DataArray, Plan, int], list[Blocks]]


def evaluate(
    sources: Mapping[str, xr.DataArray],
    plan: Plan | None = None,
    binarize: Binarize = "both",
    beta: float | None = None,
    measurement: Measure = measure,
    progress: Callable[[str], None] = lambda label: None,
) -> list[xr.Dataset]:
    """Observables of every source, and their differences from the first source.

    Where a source has as many fields as the truth they are taken as pairs, and the difference is
    jackknifed on common blocks, so that fluctuations both share cancel.

    Args:
        sources: label to fields (sample, y, x); the first is the truth.
        plan: what to measure; None: everything but clusters, on the torus.
        binarize: of continuous fields take the "sign", "none", or "both", as two sources, the
            second of which is called "LABEL (raw)". Block spins are made of signs only.
        beta: inverse temperature for susceptibility and specific heat; None: that of the truth's
            attributes, or 1.
        measurement: measures a source in so many blocks.
        progress: called with the label of each source before it is measured.

    Returns:
        One dataset per round of block spins, the fields themselves first, of dimensions source,
        side, side_too, distance, direction, mode, m, size. Every observable comes with `_stderr`,
        `_residual` and `_residual_stderr`; the covariance of kappa4 between sides, and chi-square
        and p-value of its residuals as a whole, are kept.

    Raises:
        InputError: no sources, different lattice sizes, a single field, nan, or bad sides.
    """
    plan = plan or Plan()
    _check(sources, plan)
    first = next(iter(sources.values()))
    beta = float(first.attrs.get("beta", 1.0)) if beta is None else beta
    measured = {}
    all_of_them = _both(sources, plan, binarize)
    if not any(f.dtype == np.int8 or how.binarize for f, how in all_of_them.values()):
        of_spins = {"rounds": plan.rounds or None, "clusters": plan.clusters}
        check_none_given(of_spins, "is of spins, and these fields are not binarized")
    for label, (fields, how) in all_of_them.items():
        progress(label)
        rounds = measurement(fields, how, min(len(fields), FINE_BLOCKS))
        tau_int, stride = _correlation(fields, rounds[0])
        measured[label] = _Source(rounds, len(fields), tau_int, stride)
    return [
        _dataset({label: s for label, s in measured.items() if len(s.rounds) > k}, k, beta, plan)
        for k in range(max(len(s.rounds) for s in measured.values()))
    ]


def _both(
    sources: Mapping[str, xr.DataArray], plan: Plan, binarize: Binarize
) -> dict[str, tuple[xr.DataArray, Plan]]:
    """Continuous sources by their signs, as they are, or both."""
    found = {}
    for label, fields in sources.items():
        continuous = fields.dtype != np.int8
        if not continuous or binarize != "none":
            found[label] = (fields, plan)
        if continuous and binarize != "sign":
            raw = label if binarize == "none" else f"{label} (raw)"
            if raw in sources and raw != label:
                raise InputError(f"{label} as it is goes by {raw!r}, the label of another source")
            found[raw] = (fields, replace(plan, binarize=False, rounds=0))
    return found


def _check(sources: Mapping[str, xr.DataArray], plan: Plan) -> None:
    if not sources:
        raise InputError("nothing to evaluate")
    truth, first = next(iter(sources.items()))
    L = first.shape[1]
    for label, fields in sources.items():
        _, ny, nx = fields.shape
        if ny != nx:
            raise InputError(f"{label} has {ny} x {nx} sites; only square fields are evaluated")
        if nx != L:
            raise InputError(f"{label} has {ny} x {nx} sites, {truth} {L} x {L}")
        if len(fields) < 2:
            raise InputError(f"{label} has a single field: at least 2 are needed")
    largest = L // 2 if plan.boundary == "periodic" else L - 1
    if plan.sides is not None and not all(1 <= r <= largest for r in plan.sides):
        raise InputError(f"sides must lie in 1 .. {largest} for L = {L}, got {list(plan.sides)}")
    if L % 2**plan.rounds or L >> plan.rounds < 2:
        raise InputError(f"L = {L} cannot be halved {plan.rounds} times")


def _dataset(measured: Mapping[str, _Source], k: int, beta: float, plan: Plan) -> xr.Dataset:
    labels = list(measured)
    truth = labels[0]
    L = measured[truth].rounds[k].L

    def found(label: str, n_blocks: int) -> dict[str, Replicas]:
        sums, counts = _merged(measured[label].rounds[k], n_blocks)
        return replicas_of(sums, counts, lambda mean: observables(mean, L, beta, plan))

    values = {label: found(label, source.n_blocks) for label, source in measured.items()}
    n_blocks = {label: source.n_blocks for label, source in measured.items()}
    residuals, errors = {}, {}
    whole = {}
    for label, source in measured.items():
        common = [name for name in values[label] if name in values[truth]]
        if source.n == measured[truth].n:
            n = min(n_blocks[label], n_blocks[truth])
            ours, theirs = found(label, n), found(truth, n)
            pairs = {name: ours[name] - theirs[name] for name in common}
            residuals[label] = {name: pair.value for name, pair in pairs.items()}
            errors[label] = {name: pair.stderr for name, pair in pairs.items()}
            pair = pairs["kappa4"]
            whole[label] = chi_square(pair.value, pair.covariance, n)
        else:
            residuals[label], errors[label] = {}, {}
            for name in common:
                ours_, theirs_ = values[label][name], values[truth][name]
                residuals[label][name] = ours_.value - theirs_.value
                errors[label][name] = np.hypot(ours_.stderr, theirs_.stderr)
            a, b = values[label]["kappa4"], values[truth]["kappa4"]
            n = min(n_blocks[label], n_blocks[truth])
            whole[label] = chi_square(a.value - b.value, a.covariance + b.covariance, n)

    data: dict[str, object] = {}
    for name, (units, long_name) in UNITS.items():
        like = next((v[name].value for v in values.values() if name in v), None)
        if like is None:
            continue
        attrs = {"units": units, "long_name": long_name}
        nothing = np.full(like.shape, np.nan)
        dims = ("source", *DIMS.get(name, ()))

        def stacked(rows: Mapping[str, Mapping[str, Array]], gap: Array, of: str = name) -> Array:
            return np.stack([rows[label].get(of, gap) for label in labels])

        plain = {label: {n: v.value for n, v in values[label].items()} for label in labels}
        spread = {label: {n: v.stderr for n, v in values[label].items()} for label in labels}
        data[name] = (dims, stacked(plain, nothing), attrs)
        data[f"{name}_stderr"] = (dims, stacked(spread, nothing), attrs)
        data[f"{name}_residual"] = (dims, stacked(residuals, nothing), attrs)
        data[f"{name}_residual_stderr"] = (dims, stacked(errors, nothing), attrs)
    matrix = ("source", "side", "side_too")
    data["kappa4_covariance"] = (
        matrix,
        np.stack([v["kappa4"].covariance for v in values.values()]),
    )
    tests = ("chi_square", "degrees_of_freedom", "p_value")
    for name in tests:
        data[f"kappa4_residual_{name}"] = (
            ("source",),
            np.array([getattr(whole[label], name) for label in labels], float),
        )
    for name, per in (("tau_int", "tau_int"), ("n_samples", "n"), ("n_blocks", "n_blocks")):
        data[name] = (("source",), np.array([getattr(measured[label], per) for label in labels]))
    sides = plan.sides_of(L)
    edges = magnetization_edges()
    spacing = {"units": "lattice spacing"}
    coords: dict[str, object] = {
        "source": labels,
        "side": ("side", sides, spacing | {"long_name": "side of the square"}),
        "side_too": ("side_too", sides, spacing),
        "distance": ("distance", np.arange(len(values[truth]["two_point"].value)), spacing),
        "direction": ["x", "y", "diagonal"],
        "m": ("m", (edges[:-1] + edges[1:]) / 2, {"units": "1", "long_name": "bin centre"}),
    }
    if plan.boundary == "periodic":
        modes = np.arange(L // 2 + 1)
        about = {"units": "2 pi / L", "long_name": "wavenumber along an axis"}
        coords["mode"] = ("mode", modes, about)
    if "cluster_sizes" in data:
        bins = len(values[truth]["cluster_sizes"].value)
        about = {"units": "sites", "long_name": "smallest size of the bin; bins double"}
        coords["size"] = ("size", 2 ** np.arange(bins), about)
    return xr.Dataset(
        data,
        coords=coords,
        attrs={
            "schema": "skild_physics.correlators",
            "schema_version": 2,
            "package_version": __version__,
            "truth": truth,
            "L": L,
            "block_spin_rounds": k,
            "boundary": plan.boundary,
            "beta": beta,
            "tau_int": "1/2 + sum of the autocorrelation, the larger of energy and m^2, in units "
            "of successive fields of a chain",
            "stderr": "delete-one jackknife over blocks of consecutive fields, n_blocks per "
            "source, none from fewer than 8; residuals of sources with as many fields as the truth "
            "are paired",
        },
    )
