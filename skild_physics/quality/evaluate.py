"""Metrics of one or more sources of pictures, in one pass over all of them side by side.

Every metric sees 8-bit pixels, as files of pictures hold them: fields in [-1, 1] are rounded to
0 .. 255 first, and what lies outside is clipped. Beside a batch of each source only the features of
FID, KID and IS are kept in memory: 8 kB per picture for the first two, 4 kB for the third.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from skild_physics.fields.lazy import BATCH_VALUES, log_skipped
from skild_physics.files import check_none_given
from skild_physics.progress import Progress, logger, silent
from skild_physics.quality.distances import frechet_distance, inception_score, kernel_distance
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.networks import clipiqa, inception, lpips, musiq
from skild_physics.quality.similarity import (
    multiscale_similarity,
    peak_signal_to_noise,
    similarity_scales,
    structural_similarity,
)
from skild_physics.quality.sources import batches_of, pictures_to_read
from skild_physics.quality.weights import WeightFile

FEATURES, LOGITS = "2048", "logits_unbiased"
_LAYERS = {"fid": FEATURES, "kid": FEATURES, "is": LOGITS}
_SIMILARITIES = {
    "psnr": peak_signal_to_noise,
    "ssim": structural_similarity,
    "ms-ssim": multiscale_similarity,
}
_NETWORKS = {"lpips": lpips, "musiq": musiq, "clipiqa": clipiqa}


@dataclass(frozen=True)
class _Instruments:
    """What measures: a function of pixels by metric, layers of Inception, and files of weights."""

    of_pictures: dict[str, Callable[..., Tensor]]
    features: Callable[[Tensor], dict[str, Tensor]]
    weights: dict[str, WeightFile]


@dataclass(frozen=True)
class _Measured:
    """Batches of values by metric and source, of features by layer and source, and counts."""

    values: dict[tuple[str, str], list[Tensor]]
    features: dict[tuple[str, str], list[Tensor]]
    counts: dict[str, int]


def evaluate(
    sources: Mapping[str, xr.DataArray],
    metrics: Sequence[str],
    *,
    samples: int | None = None,
    batch_size: int = 32,
    weights: Path | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Metrics of pictures.

    Args:
        sources: fields by label; the first is the reference of the metrics that compare.
        metrics: names out of :data:`METRICS`.
        samples: take the first so many pictures of each source; None: all.
        batch_size: pictures at a time.
        weights: folder of the networks' weights; None: see :func:`find_weights`.
        device: what networks run on; None: the CPU.
        progress: shows how many pictures are done, of all sources together.

    Returns:
        For metrics of pictures variables (source, image), nan where there is none; for FID and IS
        variables (source,) with `fid_stderr` and `is_stderr` (jackknife), for KID one with
        `kid_subset_std`; and the number of pictures, `n_samples` (source,).

    Raises:
        InputError: sources that cannot be compared, pictures that are too small, or damaged where
            pairs are compared, or a package or weights that are missing.
    """
    counts = pictures_to_read(sources, metrics, samples)
    instruments = _instruments(metrics, weights, device or torch.device("cpu"))
    if not instruments.weights:
        check_none_given({"weights": weights}, "is for networks, which no metric here needs")
    for metric, file in instruments.weights.items():
        if not file.published:
            logger.info(
                f"{metric}: {file.path} is not the published file; compare with nothing published"
            )
    with progress("evaluate", sum(counts.values())) as show:
        measured = _measure(sources, counts, metrics, instruments, batch_size, show)
    results = _of_pictures(list(sources), metrics, measured)
    reference, *others = sources
    for metric in metrics:
        if not METRICS[metric].per_picture:
            logger.info(f"computing {metric} and its scatter")
            labels = others if METRICS[metric].compares else list(sources)
            _add(results, metric, labels, _of_ensembles(metric, reference, labels, measured))
    if "fid" in metrics:
        for label, count in measured.counts.items():
            if count < int(FEATURES):
                logger.info(
                    f"fid: {count} pictures of {label} are fewer than the {FEATURES} features: "
                    "their covariance is singular and FID far too large"
                )
    for metric, file in instruments.weights.items():
        results[variable(metric)].attrs |= {
            "weights": file.path.name,
            "weights_sha256": file.sha256,
            "published_weights": int(file.published),
        }
    if "ms-ssim" in metrics:
        results["ms_ssim"].attrs["scales"] = similarity_scales(sources[reference].shape[-1])
    return results


def variable(metric: str) -> str:
    """The name of a metric in a dataset."""
    return metric.replace("-", "_")


def _instruments(metrics: Sequence[str], folder: Path | None, device: torch.device) -> _Instruments:
    found = _Instruments({}, lambda pixels: {}, {})
    for metric in metrics:
        if metric in _SIMILARITIES:
            found.of_pictures[metric] = _in_parts(_SIMILARITIES[metric])
        elif metric in _NETWORKS:
            found.of_pictures[metric], found.weights[metric] = _NETWORKS[metric](folder, device)
    of_ensembles = [metric for metric in metrics if metric in _LAYERS]
    if of_ensembles:
        layers = sorted({_LAYERS[metric] for metric in of_ensembles})
        features, file = inception(layers, folder, device, of_ensembles[0])
        found.weights.update(dict.fromkeys(of_ensembles, file))
        return _Instruments(found.of_pictures, features, found.weights)
    return found


def _in_parts(similarity: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """In parts of a batch that keep float64 copies of large pictures small."""

    def found(x: Tensor, y: Tensor) -> Tensor:
        length = max(1, BATCH_VALUES // x[0].numel())
        parts = zip(torch.split(x, length), torch.split(y, length), strict=True)
        return torch.cat([similarity(*part) for part in parts])

    return found


def _measure(
    sources: Mapping[str, xr.DataArray],
    counts: Mapping[str, int],
    metrics: Sequence[str],
    instruments: _Instruments,
    batch_size: int,
    show: Callable[..., None],
) -> _Measured:
    reference = next(iter(sources))
    is_paired = any(METRICS[metric].paired for metric in metrics)
    measured = _Measured(defaultdict(list), defaultdict(list), dict.fromkeys(sources, 0))
    skipped: dict[str, dict[str, str]] = {label: {} for label in sources}
    readers = [
        batches_of(label, s, counts[label], batch_size, None if is_paired else skipped[label])
        for label, s in sources.items()
    ]
    for batches in zip_longest(*readers):
        for label, batch in zip(sources, batches, strict=True):
            if batch is None:
                continue
            for metric, function in instruments.of_pictures.items():
                if not METRICS[metric].compares:
                    measured.values[metric, label].append(function(batch))
                elif label != reference:
                    measured.values[metric, label].append(function(batches[0], batch))
            for layer, features in instruments.features(batch).items():
                measured.features[layer, label].append(features)
            measured.counts[label] += len(batch)
        show(sum(measured.counts.values()))
    for label, fields in sources.items():
        log_skipped(skipped[label], fields)
    return measured


def _of_pictures(labels: list[str], metrics: Sequence[str], measured: _Measured) -> xr.Dataset:
    counts = [measured.counts[label] for label in labels]
    results = xr.Dataset(
        {"n_samples": ("source", counts, {"long_name": "number of pictures"})},
        coords={"source": ("source", labels)},
    )
    for metric in metrics:
        if not METRICS[metric].per_picture:
            continue
        table = np.full((len(labels), max(counts)), np.nan)
        for row, label in zip(table, labels, strict=True):
            if batches := measured.values.get((metric, label)):
                row[: measured.counts[label]] = torch.cat(batches).numpy()
        results[variable(metric)] = ("source", "image"), table, _attributes(metric)
    return results


def _of_ensembles(
    metric: str, reference: str, labels: list[str], measured: _Measured
) -> dict[str, list[float]]:
    """Values of the sources, and of their errors by the ending of the name."""
    features = {
        label: torch.cat(measured.features[_LAYERS[metric], label])
        for label in {reference, *labels}
    }
    if metric == "kid":
        distances = [kernel_distance(features[reference], features[label]) for label in labels]
        return {
            "": [each.value for each in distances],
            "_subset_std": [each.subset_std for each in distances],
            "_subset_size": [each.subset_size for each in distances],
        }
    estimates = [
        inception_score(features[label])
        if metric == "is"
        else frechet_distance(features[reference], features[label])
        for label in labels
    ]
    return {
        "": [float(each.value) for each in estimates],
        "_stderr": [float(each.stderr) for each in estimates],
    }


def _add(
    results: xr.Dataset, metric: str, labels: list[str], columns: dict[str, list[float]]
) -> None:
    about = {
        "_stderr": "jackknife standard error of ",
        "_subset_std": "standard deviation over random subsets of ",
        "_subset_size": "pictures of each subset of ",
    }
    for ending, values in columns.items():
        column = xr.DataArray(values, {"source": labels}, "source").reindex(
            source=results["source"]
        )
        attributes = _attributes(metric)
        attributes["long_name"] = about.get(ending, "") + attributes["long_name"]
        results[variable(metric) + ending] = column.assign_attrs(attributes)


def _attributes(metric: str) -> dict[str, Any]:
    return {"long_name": METRICS[metric].long_name, "units": METRICS[metric].units}
