"""Observables of all sources as labelled arrays with units."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from skild_physics.observables.formulas import OBSERVABLES
from skild_physics.observables.jackknife import ChiSquare, Estimate, Replicas
from skild_physics.observables.measure import Plan, magnetization_edges
from skild_physics.version import __version__

SCHEMA, SCHEMA_VERSION = "skild_physics.correlators", 2


@dataclass(frozen=True)
class Row:
    """A source: its observables, how far they are from the truth's, and what they are made of."""

    values: Mapping[str, Replicas]
    residuals: Mapping[str, Estimate]
    test: ChiSquare
    beta: float
    tau_int: float
    n_samples: int
    n_pairs: int
    n_blocks: int


def dataset_of(rows: Mapping[str, Row], L: int, block_spins: int, plan: Plan) -> xr.Dataset:
    """The rows of all sources as labelled arrays, nan where a source has no such observable.

    Args:
        rows: by label, the truth first.
        L: side of the lattice.
        block_spins: rounds of block spins before.
        plan: what was measured.
    """
    truth, first = next(iter(rows.items()))
    data: dict[str, Any] = {}

    for name, (units, long_name, dims) in OBSERVABLES.items():
        values = [row.values.get(name) for row in rows.values()]
        residuals = [row.residuals.get(name) for row in rows.values()]
        like = next((each.value for each in values if each is not None), None)
        if like is None:
            continue
        nothing = Estimate(np.full(like.shape, np.nan), np.full(like.shape, np.nan))
        for suffix, found in (("", values), ("_residual", residuals)):
            for which, kept in (
                (suffix, [(each or nothing).value for each in found]),
                (f"{suffix}_stderr", [(each or nothing).stderr for each in found]),
            ):
                about = {"units": units, "long_name": long_name}
                data[f"{name}{which}"] = (("source", *dims), np.stack(kept), about)
    matrices = np.stack([row.values["kappa4"].covariance for row in rows.values()])
    data["kappa4_covariance"] = (("source", "side", "side_too"), matrices)
    for name in ChiSquare._fields:
        tests = np.array([getattr(row.test, name) for row in rows.values()], float)
        data[f"kappa4_residual_{name}"] = ("source", tests)
    for name in ("beta", "tau_int", "n_samples", "n_pairs", "n_blocks"):
        data[name] = ("source", np.array([getattr(row, name) for row in rows.values()]))
    data["beta"] += ({"units": "1/J", "long_name": "inverse temperature"},)
    return xr.Dataset(
        data,
        coords=_coordinates(rows, first, L, plan),
        attrs={
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "truth": truth,
            "L": L,
            "block_spin_rounds": block_spins,
            "boundary": plan.boundary,
            "beta": first.beta,
            "tau_int": "1/2 + sum of the autocorrelation, the larger of energy and m^2, in units "
            "of successive fields of a chain",
            "stderr": "delete-one jackknife over blocks of consecutive fields, n_blocks per "
            "source, none from fewer than 8; residuals are paired for sources with as many fields "
            "as the truth, or made from given ones of them",
        },
    )


def _coordinates(rows: Mapping[str, Row], first: Row, L: int, plan: Plan) -> dict[str, Any]:
    sides, edges = plan.sides_of(L), magnetization_edges()
    spacing = {"units": "lattice spacing"}
    coords: dict[str, Any] = {
        "source": list(rows),
        "side": ("side", sides, spacing | {"long_name": "side of the square"}),
        "side_too": ("side_too", sides, spacing),
        "distance": ("distance", np.arange(len(first.values["two_point"].value)), spacing),
        "direction": ["x", "y", "diagonal"],
        "m": ("m", (edges[:-1] + edges[1:]) / 2, {"units": "1", "long_name": "bin centre"}),
    }
    if plan.boundary == "periodic":
        about = {"units": "2 pi / L", "long_name": "wavenumber along an axis"}
        coords["mode"] = ("mode", np.arange(L // 2 + 1), about)
    sizes = next(
        (r.values["cluster_sizes"] for r in rows.values() if "cluster_sizes" in r.values), None
    )
    if sizes is not None:
        about = {"units": "sites", "long_name": "smallest size of the bin; bins double"}
        coords["size"] = ("size", 2 ** np.arange(len(sizes.value)), about)
    return coords
