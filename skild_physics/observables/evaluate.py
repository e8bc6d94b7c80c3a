"""Evaluate several sources of fields against the first, which is the truth."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics import __version__
from skild_physics.observables.correlators import (
    corner_means,
    default_sides,
    energy_per_spin,
    kappa4,
    magnetization_per_spin,
)
from skild_physics.observables.jackknife import N_BLOCKS, Estimate, jackknife

BATCH_SITES = 2**22


def _measure(
    fields: xr.DataArray, sides: NDArray[np.int64], binarize: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corner means (sample, side, 5), and energy and |m| (sample, 2), in bounded memory."""
    batch = max(1, BATCH_SITES // (fields.shape[1] * fields.shape[2]))
    corners, others = [], []
    for first in range(0, len(fields), batch):
        values = fields[first : first + batch].values
        if not np.isfinite(values).all():
            raise ValueError(f"fields {first} .. {first + len(values) - 1} hold nan or infinity")
        if binarize and values.dtype != np.int8:
            values = np.where(values < 0, -1, 1).astype(np.int8)
        corners.append(corner_means(values, sides))
        others.append(
            np.stack([energy_per_spin(values), np.abs(magnetization_per_spin(values))], axis=-1)
        )
    return np.concatenate(corners), np.concatenate(others)


def evaluate(
    sources: Mapping[str, xr.DataArray],
    sides: NDArray[np.int64] | None = None,
    binarize: bool = True,
    n_blocks: int = N_BLOCKS,
    progress: Callable[[str], None] = lambda label: None,
) -> xr.Dataset:
    """kappa4, energy and |m| of every source, and their differences from the first source.

    Where a source has as many fields as the truth they are taken as pairs, and the difference is
    jackknifed on common blocks, so that fluctuations both share cancel.

    Args:
        sources: label to fields (sample, y, x); the first is the truth.
        sides: sides of the squares in lattice spacings; None takes 1, 2, 4 .. L/2.
        binarize: take the sign of continuous fields (zero counts as +1).
        n_blocks: jackknife blocks.
        progress: called with the label of each source before it is measured.

    Returns:
        Dataset with dimensions (source, side): `kappa4`, `energy`, `abs_magnetization`, each with
        `_stderr`, `_residual` and `_residual_stderr`.

    Raises:
        ValueError: no sources, different lattice sizes, a single field, nan, or bad sides.
    """
    if not sources:
        raise ValueError("nothing to evaluate")
    sizes = {label: fields.shape[1:] for label, fields in sources.items()}
    truth = next(iter(sources))
    for label, (ny, nx) in sizes.items():
        if (ny, nx) != sizes[truth]:
            raise ValueError(
                f"{label} has {ny} x {nx} sites, {truth} {sizes[truth][0]} x {sizes[truth][1]}"
            )
        if len(sources[label]) < 2:
            raise ValueError(f"{label} has a single field: error bars need at least 2")
    if sides is None:
        sides = default_sides(sizes[truth][0])
    measured = {}
    for label, fields in sources.items():
        progress(label)
        measured[label] = _measure(fields, sides, binarize)

    n_sides = len(sides)

    def statistic(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        corners, others = mean[: 5 * n_sides].reshape(n_sides, 5), mean[5 * n_sides :]
        return np.concatenate([kappa4(corners), others])

    def flat(label: str) -> NDArray[np.float64]:
        corners, others = measured[label]
        return np.concatenate([corners.reshape(len(corners), -1), others], axis=1)

    values = {label: jackknife(flat(label), statistic, n_blocks) for label in sources}
    residuals = {}
    for label in sources:
        if label == truth:
            zero = np.zeros(n_sides + 2)
            residuals[label] = Estimate(zero, zero)
        elif len(sources[label]) == len(sources[truth]):
            both = np.stack([flat(label), flat(truth)], axis=1)
            residuals[label] = jackknife(
                both, lambda mean: statistic(mean[0]) - statistic(mean[1]), n_blocks
            )
        else:
            residuals[label] = Estimate(
                values[label].value - values[truth].value,
                np.hypot(values[label].stderr, values[truth].stderr),
            )

    def stack(
        estimates: Mapping[str, Estimate], field: int, part: slice | int
    ) -> NDArray[np.float64]:
        return np.stack([estimates[label][field][part] for label in sources])

    data: dict[str, tuple[tuple[str, ...], NDArray[np.float64], dict[str, str]]] = {}
    for name, part, dims, units, long_name in (
        ("kappa4", slice(n_sides), ("source", "side"), "1", "connected four-point correlator"),
        ("energy", n_sides, ("source",), "J", "energy per spin"),
        (
            "abs_magnetization",
            n_sides + 1,
            ("source",),
            "1",
            "mean absolute magnetisation per spin",
        ),
    ):
        assert isinstance(part, slice | int)
        attrs = {"units": units, "long_name": long_name}
        data[name] = (dims, stack(values, 0, part), attrs)
        data[f"{name}_stderr"] = (dims, stack(values, 1, part), attrs)
        data[f"{name}_residual"] = (dims, stack(residuals, 0, part), attrs)
        data[f"{name}_residual_stderr"] = (dims, stack(residuals, 1, part), attrs)
    blocks = min(n_blocks, *(len(f) for f in sources.values()))
    return xr.Dataset(
        data,
        coords={
            "source": list(sources),
            "side": (
                "side",
                sides,
                {"units": "lattice spacing", "long_name": "side of the square"},
            ),
        },
        attrs={
            "schema": "skild_physics.correlators",
            "schema_version": 1,
            "package_version": __version__,
            "truth": truth,
            "L": sizes[truth][0],
            "n_samples": [len(f) for f in sources.values()],
            "binarize": "sign" if binarize else "none",
            "stderr": f"delete-one jackknife over at most {blocks} blocks of consecutive fields; "
            "residuals of sources with as many fields as the truth are paired",
        },
    )
