"""Means over pictures with standard errors, bootstrap intervals and paired differences.

The standard error of a mean is s / sqrt(n), with the standard deviation s of the values of n
pictures, eight or more: from fewer there is neither error nor interval. The interval runs from the
2.5th to the 97.5th percentile of the means of samples of n pictures drawn with replacement (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3), the same draws for every
source of n pictures. Sources that are compared with one reference share its scatter, so that the
error of their difference comes from the differences picture by picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.observables.jackknife import MIN_BLOCKS
from skild_physics.quality.evaluate import variable
from skild_physics.quality.metrics import METRICS

RESAMPLES = 1000
SEED = 0
TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Row:
    """One metric of one source; None stands for what it has not.

    Attributes:
        metric: its name.
        title: the same for people, with what must be known about it.
        source: the label.
        pictures: how many.
        value: the mean over pictures, or that of an ensemble.
        stderr: standard error of the value; of FID and IS by the jackknife.
        low: lower end of the 95 % bootstrap interval of a mean.
        high: its upper end.
        subset_std: of KID, the standard deviation over its subsets.
        difference: value minus that of the first compared source.
        difference_stderr: its standard error.
    """

    metric: str
    title: str
    source: str
    pictures: int
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    subset_std: float | None
    difference: float | None
    difference_stderr: float | None


def summarize(
    results: xr.Dataset, metrics: Sequence[str], resamples: int = RESAMPLES
) -> xr.Dataset:
    """The results with means over pictures.

    Args:
        results: see :func:`skild_physics.quality.evaluate.evaluate`.
        metrics: those it holds; the ones of ensembles have no mean.
        resamples: samples of the bootstrap.

    Returns:
        The same and, for a metric psnr of pictures, variables (source,): `psnr_mean`,
        `psnr_mean_stderr`, `psnr_mean_low`, `psnr_mean_high`, and, of sources with as many pictures
        as the first compared one, `psnr_mean_difference` to it, with `_stderr`. What does not exist
        or is not finite is nan.
    """
    added = {}
    for metric in metrics:
        if not METRICS[metric].per_picture:
            continue
        name = variable(metric)
        table = results[name].values
        kept = [row[:n] for row, n in zip(table, results["n_samples"].values, strict=True)]
        first = kept[1] if len(kept) > 1 else kept[0]
        means = np.array([_mean_and_error(row) for row in kept])
        bounds = np.array([_interval(row, resamples) for row in kept])
        differences = np.array(
            [(np.nan, np.nan) if row is first else difference(row, first) for row in kept]
        )
        for ending, column in {
            "": means[:, 0],
            "_stderr": means[:, 1],
            "_low": bounds[:, 0],
            "_high": bounds[:, 1],
            "_difference": differences[:, 0],
            "_difference_stderr": differences[:, 1],
        }.items():
            added[f"{name}_mean{ending}"] = ("source", column, {"units": METRICS[metric].units})
    if not added:
        return results
    return results.assign(added).assign_attrs(
        bootstrap_resamples=resamples, bootstrap_seed=SEED, bootstrap_percentiles=TAILS
    )


def difference(values: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the differences picture by picture, (image,), and its standard error.

    nan where there are none, or infinite values; the error also of fewer than eight pictures.
    """
    if len(values) != len(others) or not np.isfinite([values, others]).all():
        return np.nan, np.nan
    return _mean_and_error(values - others)


def _mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    n = len(values)
    # equal pictures have an infinite PSNR
    is_known = n >= MIN_BLOCKS and bool(np.isfinite(values).all())
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if is_known else np.nan


def _interval(values: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    n = len(values)
    if n < MIN_BLOCKS or not np.isfinite(values).all():
        return np.full(2, np.nan)
    rng = np.random.default_rng(SEED)
    means = [values[rng.integers(n, size=n)].mean() for _ in range(resamples)]
    return np.asarray(np.percentile(means, TAILS))


def rows(results: xr.Dataset, metrics: Sequence[str]) -> list[Row]:
    """What :func:`summarize` found, metric by metric and source by source."""
    found = []
    for metric in metrics:
        name = variable(metric)
        attributes = results[name].attrs
        base = f"{name}_mean" if METRICS[metric].per_picture else name
        title = METRICS[metric].title
        if "scales" in attributes:
            title += f", {attributes['scales']} scales"
        if attributes.get("luminance"):
            title += ", of the luminance"
        if "shave" in attributes:
            title += f", less a border of {attributes['shave']}"
        if not attributes.get("published_weights", True):
            title += ", NOT the published weights"
        for label in map(str, results["source"].values):
            here = results.sel(source=label)

            def number(ending: str, here: xr.Dataset = here, base: str = base) -> float | None:
                value = float(here.get(base + ending, np.nan))
                return None if np.isnan(value) else value

            value = number("")
            if value is not None:
                found.append(
                    Row(
                        metric,
                        title,
                        label,
                        int(here["n_samples"]),
                        value,
                        number("_stderr"),
                        number("_low"),
                        number("_high"),
                        number("_subset_std"),
                        number("_difference"),
                        number("_difference_stderr"),
                    )
                )
    return found
