"""Metrics of one or more sources of pictures, in one pass over all of them side by side.

Every metric sees 8-bit pixels, as files of pictures hold them: fields in [-1, 1] become 0 .. 255
first, to the nearest byte or downwards, and what lies outside is clipped. Beside a batch of each
source only the features of FID, KID and IS are kept in memory: 8 kB per picture for the first two,
4 kB for the third. Pictures that follow one another are a batch as long as they are of one size.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.fields.lazy import BATCH_VALUES
from skild_physics.files import check_none_given
from skild_physics.progress import Progress, logger, silent
from skild_physics.quality.distances import frechet_distance, inception_score, kernel_distance
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.networks import clipiqa, inception, lpips, musiq
from skild_physics.quality.pairs import check_same_size, pictures_to_read, smallest_side
from skild_physics.quality.similarity import (
    luminance,
    multiscale_similarity,
    peak_signal_to_noise,
    similarity_scales,
    structural_similarity,
)
from skild_physics.quality.sources import Numbers, Pictures, of_fields
from skild_physics.quality.weights import WeightFile

BATCH_PIXELS = 2**24
"""Values of a batch at most, beyond which it has fewer pictures."""
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
    sources: Mapping[str, xr.DataArray | Pictures],
    metrics: Sequence[str],
    *,
    samples: int | None = None,
    choose_seed: int | None = None,
    on_luminance: bool = False,
    shave: int = 0,
    batch_size: int = 32,
    weights: Path | None = None,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Metrics of pictures.

    Args:
        sources: fields or pictures by label; the first is the reference of metrics that compare.
        metrics: names out of :data:`METRICS`.
        samples: take the first so many pictures of each source; None: all.
        choose_seed: choose so many at random, see :func:`skild_physics.fields.choice.chosen`.
        on_luminance: psnr, ssim and ms-ssim of Y of BT.601 alone, not of red, green and blue.
        shave: for these, cut off so many pixels at every edge.
        batch_size: pictures at a time.
        weights: folder of the networks' weights; None: see :func:`find_weights`.
        device: what networks run on; None: the CPU.
        progress: shows how many pictures are done, of all sources together.

    Returns:
        For metrics of pictures variables (source, image), nan where there is none; for FID and IS
        variables (source,) with `fid_stderr` and `is_stderr` (jackknife), for KID one with
        `kid_subset_std`; the number of pictures, `n_samples` (source,), and whether they are
        `interpolated`; and, if pictures are compared in pairs and the reference knows them, their
        `name` (image,).

    Raises:
        InputError: sources that cannot be compared, pictures that are too small, or damaged where
            pairs are compared, or a package or weights that are missing.
    """
    opened = {
        label: each if isinstance(each, Pictures) else of_fields(label, each)
        for label, each in sources.items()
    }
    numbers = pictures_to_read(opened, metrics, samples, shave, choose_seed)
    about: dict[str, dict[str, Any]] = {metric: {} for metric in metrics}
    for metric in metrics:
        if METRICS[metric].of_pixels:
            about[metric] = {"luminance": 1} if on_luminance else {}
            about[metric] |= {"shave": shave} if shave else {}
    if "ms-ssim" in metrics:
        side = smallest_side(opened, numbers) - 2 * shave
        about["ms-ssim"]["scales"] = similarity_scales(side)
    instruments = _instruments(about, weights, device or torch.device("cpu"))
    if not instruments.weights:
        check_none_given({"weights": weights}, "is for networks, which no metric here needs")
    for metric, file in instruments.weights.items():
        if not file.published:
            logger.info(
                f"{metric}: {file.path} is not the published file; compare with nothing published"
            )
    total = sum(min(len(each), samples or len(each)) for each in numbers.values())
    with progress("evaluate", total) as show:
        measured = _measure(opened, numbers, samples, instruments, batch_size, show)
    results = _of_pictures(list(sources), metrics, measured)
    results["interpolated"] = "source", [each.interpolated for each in opened.values()]
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
    for metric, known in about.items():
        results[variable(metric)].attrs |= known
    names = opened[reference].names
    if names is not None and _are_paired(metrics):
        shown = np.array([names[i] for i in numbers[reference]], object)
        results = results.assign_coords(name=("image", shown))
    return results


def variable(metric: str) -> str:
    """The name of a metric in a dataset."""
    return metric.replace("-", "_")


def _are_paired(metrics: Iterable[str]) -> bool:
    return any(METRICS[metric].paired for metric in metrics)


def _instruments(
    metrics: Mapping[str, Mapping[str, Any]], folder: Path | None, device: torch.device
) -> _Instruments:
    """What measures these metrics, with what is known about each."""
    found = _Instruments({}, lambda pixels: {}, {})
    for metric, about in metrics.items():
        if metric in _SIMILARITIES:
            similarity: Callable[..., Tensor] = _SIMILARITIES[metric]
            if "scales" in about:
                similarity = partial(similarity, scales=about["scales"])
            seen = partial(_seen, shave=about.get("shave", 0), is_grey="luminance" in about)
            found.of_pictures[metric] = _in_parts(similarity, seen)
        elif metric in _NETWORKS:
            found.of_pictures[metric], found.weights[metric] = _NETWORKS[metric](folder, device)
    of_ensembles = [metric for metric in metrics if metric in _LAYERS]
    if of_ensembles:
        layers = sorted({_LAYERS[metric] for metric in of_ensembles})
        features, file = inception(layers, folder, device, of_ensembles[0])
        found.weights.update(dict.fromkeys(of_ensembles, file))
        return _Instruments(found.of_pictures, features, found.weights)
    return found


def _seen(pixels: Tensor, *, shave: int, is_grey: bool) -> Tensor:
    """What of pictures is compared."""
    height, width = pixels.shape[-2:]
    inner = pixels[..., shave : height - shave, shave : width - shave]
    return luminance(inner) if is_grey else inner


def _in_parts(
    similarity: Callable[..., Tensor], seen: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    """In parts of a batch that keep float64 copies of large pictures small."""

    def found(x: Tensor, y: Tensor) -> Tensor:
        length = max(1, BATCH_VALUES // x[0].numel())
        parts = zip(torch.split(x, length), torch.split(y, length), strict=True)
        return torch.cat([similarity(*map(seen, part)) for part in parts])

    return found


def _measure(
    sources: Mapping[str, Pictures],
    numbers: Mapping[str, Numbers],
    samples: int | None,
    instruments: _Instruments,
    batch_size: int,
    show: Callable[..., None],
) -> _Measured:
    reference = next(iter(sources))
    measured = _Measured(defaultdict(list), defaultdict(list), dict.fromkeys(sources, 0))
    is_paired = _are_paired(instruments.of_pictures)
    for labels in [list(sources)] if is_paired else [[label] for label in sources]:
        skipped: dict[str, str] | None = None if is_paired else {}
        readers = [
            sources[label].read(numbers[label], skipped, samples or len(numbers[label]))
            for label in labels
        ]
        together = zip(*readers, strict=True)
        for pictures in _batches(_same_sizes(together, sources, numbers), batch_size):
            batch = dict(zip(labels, map(torch.from_numpy, pictures), strict=True))
            for label, pixels in batch.items():
                for metric, function in instruments.of_pictures.items():
                    if not METRICS[metric].compares:
                        measured.values[metric, label].append(function(pixels))
                    elif label != reference:
                        measured.values[metric, label].append(function(batch[reference], pixels))
                for layer, features in instruments.features(pixels).items():
                    measured.features[layer, label].append(features)
                measured.counts[label] += len(pixels)
            show(sum(measured.counts.values()))
        for file, reason in (skipped or {}).items():
            logger.info(f"skipped {file}: {reason}")
        if skipped:
            logger.info(f"{len(skipped)} of {len(sources[labels[0]])} files skipped")
    return measured


def _same_sizes(
    together: Iterable[tuple[NDArray[np.uint8], ...]],
    sources: Mapping[str, Pictures],
    numbers: Mapping[str, Numbers],
) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Partners one after another; headers do not say which of them are turned."""
    reference, *others = sources
    for i, pictures in enumerate(together):
        for label, picture in zip(others, pictures[1:], strict=False):
            name = sources[reference].name(int(numbers[reference][i]))
            sizes = pictures[0].shape[:0:-1], picture.shape[:0:-1]
            check_same_size(*sizes, (reference, label, name), "metrics of pairs")
        yield pictures


def _batches(
    together: Iterable[tuple[NDArray[np.uint8], ...]], length: int
) -> Iterator[list[NDArray[np.uint8]]]:
    """Partners of one size that follow one another, stacked, source by source."""
    batch: list[tuple[NDArray[np.uint8], ...]] = []
    for pictures in together:
        if batch and (
            batch[0][0].shape != pictures[0].shape
            or len(batch) == length
            or (len(batch) + 1) * pictures[0].size > BATCH_PIXELS
        ):
            yield [np.stack(column) for column in zip(*batch, strict=True)]
            batch = []
        batch.append(pictures)
    if batch:
        yield [np.stack(column) for column in zip(*batch, strict=True)]


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
