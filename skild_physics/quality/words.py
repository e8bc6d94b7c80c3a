"""In words which sources are better than an interpolation, metric by metric and with errors.

Pictures are compared with their partners: the scatter that two sources have in common cancels in
the differences. What is within two standard errors is not told apart.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from skild_physics.quality.evaluate import variable
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.summary import difference
from skild_physics.tables import with_error

SIGMAS = 2


def in_words(results: xr.Dataset, metrics: Sequence[str]) -> list[str]:
    """A line for each source, against the best interpolation by the first metric of pairs.

    If no source says that an interpolation made it, or all do, they are compared with the first one
    after the reference.

    Args:
        results: see :func:`skild_physics.quality.summary.summarize`.
        metrics: those it holds; what is said is of those of pairs.
    """
    paired = [metric for metric in metrics if METRICS[metric].paired]
    others = results["source"].values[1:].tolist()
    if not paired or len(others) < 2:
        return []
    # files of earlier versions do not say it
    known = "interpolated" in results
    enlarged = [x for x in others if known and results["interpolated"].sel(source=x)]
    made = [x for x in others if x not in enlarged]
    standard, judged = others[0], others[1:]
    if enlarged and made:
        means = results[f"{variable(paired[0])}_mean"] * _sign(paired[0])
        standard, judged = max(enlarged, key=lambda x: float(means.sel(source=x))), made
    name = f"{standard}, the best interpolation," if len(enlarged) > 1 and made else standard
    return [
        f"{label} against {name} picture by picture: "
        + ", ".join(_compared(results, metric, label, standard) for metric in paired)
        for label in judged
    ]


def _compared(results: xr.Dataset, metric: str, label: str, standard: str) -> str:
    values, title = results[variable(metric)], METRICS[metric].title.partition(" / ")[0]
    mean, stderr = difference(*(values.sel(source=x).values for x in (label, standard)))
    if np.isnan(stderr):
        return f"{title} not compared"
    unit = "" if METRICS[metric].units == "1" else f" {METRICS[metric].units}"
    if abs(mean) <= SIGMAS * stderr:
        return f"{title} not told apart, {with_error(mean, stderr)}{unit}"
    which = "better" if mean * _sign(metric) > 0 else "worse"
    return f"{title} {which} by {with_error(abs(mean), stderr)}{unit}"


def _sign(metric: str) -> int:
    return 1 if METRICS[metric].higher_is_better else -1
