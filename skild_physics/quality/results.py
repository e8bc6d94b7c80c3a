"""Image quality of sources of pictures: measured, summarised, shown and saved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.table import Table

from skild_physics.disk import write_netcdf
from skild_physics.fields import WORDS, open_fields
from skild_physics.fields.choice import chosen
from skild_physics.fields.clipping import ROUNDINGS, Rounding
from skild_physics.fields.hdf5_files import loaded, open_netcdf
from skild_physics.fields.picture_files import holds_pictures
from skild_physics.fields.sources import is_foreign
from skild_physics.fields.values import DataRange
from skild_physics.files import InputError, check_apart, check_none_given
from skild_physics.machine import default_device, keep_freed_memory
from skild_physics.observables.jackknife import MIN_BLOCKS
from skild_physics.progress import Progress, silent
from skild_physics.quality.evaluate import evaluate, variable
from skild_physics.quality.metrics import METRICS
from skild_physics.quality.sources import Pictures, of_fields, of_files
from skild_physics.quality.summary import RESAMPLES, Row, rows, summarize
from skild_physics.quality.words import in_words
from skild_physics.requests import (
    check_derived,
    check_result,
    derived,
    is_made,
    matches,
    request,
)
from skild_physics.tables import Printed, with_error
from skild_physics.version import __version__

SCHEMA = "skild_physics.image_quality"
DEFAULT = ("psnr", "ssim", "ms-ssim")
OF_FILES, OF_ARRAYS = {"size", "resize", "grey"}, {"L", "dims", "data_range"}
ADVICE = "pass `data_range`, the values of black and white, or -1,1 to have them clipped"


@dataclass(frozen=True, repr=False)
class ImageQuality(Printed):
    """Metrics of sources of pictures.

    Attributes:
        dataset: values of every picture (source, image) and what they amount to (source,), see
            :func:`skild_physics.quality.evaluate.evaluate` and
            :func:`skild_physics.quality.summary.summarize`.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> x = np.random.default_rng(0).uniform(-1, 1, (16, 1, 16, 16))
    >>> quality = sk.eval_images(truth=x, darker=0.9 * x, metrics=["psnr"])
    >>> [row.source for row in quality.rows]
    ['darker']
    """

    dataset: xr.Dataset

    @property
    def metrics(self) -> list[str]:
        """Their names."""
        # of a file, a single one is no list
        return [str(name) for name in np.atleast_1d(self.dataset.attrs["metrics"])]

    @property
    def rows(self) -> list[Row]:
        """The results, metric by metric and source by source."""
        return rows(self.dataset, self.metrics)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as plain values; the infinite PSNR of equal pictures is a word."""
        return [
            {
                name: str(value) if isinstance(value, float) and math.isinf(value) else value
                for name, value in asdict(row).items()
            }
            for row in self.rows
        ]

    def tables(self) -> list[Table]:
        """One row per metric and source, with intervals and differences."""
        found = self.rows
        first = str(self.dataset["source"].values[:2][-1])
        table = Table("metric", "source", "value", "95 % interval")
        has_differences = any(row.difference is not None for row in found)
        if has_differences:
            table.add_column(f"minus {first}")
        before = ""
        for row in found:
            value = _value(row)
            cells = [row.title if row.title != before else "", row.source, value, ""]
            before = row.title
            if row.low is not None and row.high is not None:
                decimals = len(value.partition("(")[0].partition(".")[2])
                cells[-1] = f"{row.low:.{decimals}f} .. {row.high:.{decimals}f}"
            if has_differences and row.difference is not None:
                cells.append(with_error(row.difference, row.difference_stderr or 0.0))
            table.add_row(*cells)
        return [table]

    def notes(self) -> list[str]:
        """How many pictures, what the errors are, and last what was found, in words."""
        results, found = self.dataset, self.rows
        numbers = ", ".join(
            f"{int(number):,} of {label}"
            for label, number in zip(
                results["source"].values, results["n_samples"].values, strict=True
            )
        )
        errors = []
        if any(row.low is not None for row in found):
            errors.append(
                f"means over pictures with standard errors and percentiles of "
                f"{results.attrs['bootstrap_resamples']} bootstrap resamples"
            )
        if any(row.metric in ("fid", "is") and row.stderr is not None for row in found):
            errors.append("FID and IS with jackknife errors over ten blocks of pictures")
        if any(row.metric == "kid" for row in found):
            errors.append(
                f"KID: mean and standard deviation over random subsets of "
                f"{int(results['kid_subset_size'].max())} pictures, no error of the mean"
            )
        if int(results["n_samples"].min()) < MIN_BLOCKS:
            errors.append(f"no error bars from fewer than {MIN_BLOCKS} pictures")
        return [f"(pictures: {numbers}; {'; '.join(errors)})", *self.in_words()]

    def in_words(self) -> list[str]:
        """How sources compare with an interpolation, see :mod:`skild_physics.quality.words`."""
        return in_words(self.dataset, self.metrics)

    def save(self, path: str | Path, request: str | None = None) -> None:
        """Write a NetCDF-4 file, replacing an existing one at once.

        Args:
            path: the file.
            request: what it was made for, see :mod:`skild_physics.claims`.
        """
        write_netcdf(path, {None: self.dataset}, request)

    @classmethod
    def load(cls, path: str | Path) -> "ImageQuality":
        """Read a file written by :meth:`save`.

        Raises:
            InputError: the file is missing, or no result of eval-images.
        """
        with open_netcdf(path) as data:
            dataset = loaded(data, path)
        if dataset.attrs.get("schema") != SCHEMA:
            raise InputError(f"{path}: not a result of eval-images")
        return cls(dataset)

    def save_csv(self, path: str | Path, overwrite: bool = True) -> None:
        """Write the values of every picture as CSV.

        Args:
            path: the file.
            overwrite: replace one that holds something else.

        Raises:
            InputError: there is one, which is not to be replaced.
        """
        names = [variable(metric) for metric in self.metrics if METRICS[metric].per_picture]
        with derived(path, overwrite) as temporary:
            table = self.dataset[names].to_dataframe()
            table.dropna(how="all", subset=names).to_csv(temporary)


def eval_images(
    sources: Mapping[str, Any] | None = None,
    /,
    *,
    metrics: Sequence[str] = DEFAULT,
    samples: int | None = None,
    choose_seed: int | None = None,
    size: int | None = None,
    resize: bool = False,
    grey: bool = False,
    luminance: bool = False,
    shave: int = 0,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    data_range: DataRange | None = None,
    rounding: Rounding = "nearest",
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    batch_size: int = 32,
    bootstrap: int | None = None,
    out: str | Path | None = None,
    csv: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **labelled: Any,
) -> ImageQuality:
    """Image quality of sources of pictures, with error bars; the first is the reference.

    Metrics are computed on 8-bit pixels: fields in [-1, 1] are rounded to 0 .. 255 first, and what
    lies outside is clipped, counted and said. Pictures in files are taken whole, whatever their
    sizes, and find their partners by their names without suffix (7.png and 0007.jpg); those of
    arrays, which have no names, by position.

    Args:
        sources: whatever :func:`skild_physics.fields.open_fields` takes, by label; or as keywords.
        metrics: names out of :data:`skild_physics.quality.metrics.METRICS`. psnr, ssim, ms-ssim and
            lpips compare pictures in pairs; fid and kid compare ensembles; is, musiq and clipiqa
            judge every source alone.
        samples: the first so many pictures of each source, or pairs; None: all.
        choose_seed: choose so many at random, with this seed: of a source of as many pictures the
            same ones as everywhere. None: the first.
        size: of folders and photographs: the central so many pixels; None: all.
        resize: of folders: shrink pictures to ``size`` first.
        grey: of folders: luminance instead of colours.
        luminance: psnr, ssim and ms-ssim of Y of BT.601 (16 .. 235, not rounded) instead of red,
            green and blue, as published numbers of super-resolution are.
        shave: for these, cut off so many pixels at every edge, published as the factor.
        L: of arrays of which nothing is known, as the next two, see
            :func:`skild_physics.fields.open_fields`: side of flattened ones.
        dims: what each axis is.
        data_range: the values of black and white.
        rounding: of fields to bytes: to the "nearest", or "floor", cut off, as published code of
            SKILD does before FID; bytes stay what they are.
        data_dir: folder of CIFAR-10's archive.
        weights: folder of the networks' published weights; None: the user's cache. Nothing is
            downloaded.
        batch_size: pictures at a time.
        bootstrap: resamples of the pictures for the intervals; None: 1000.
        out: NetCDF file to write; if it holds what is asked for already, that is returned.
        csv: file for the values of every picture.
        overwrite: replace existing files.
        progress: shows how many pictures are done.

    Raises:
        InputError: sources that cannot be read or compared, unknown metrics, a package or weights
            that are missing, or fields that nothing here made, of which more than 1 % lies outside
            [-1, 1].

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> x = np.random.default_rng(0).uniform(-1, 1, (16, 1, 16, 16))
    >>> quality = sk.eval_images(truth=x, darker=0.9 * x, metrics=["psnr"])
    >>> 25 < float(quality.dataset["psnr_mean"].sel(source="darker")) < 35
    True
    """
    if out is not None:
        check_result(out, overwrite)
    if csv is not None:
        check_derived(csv, overwrite, out)
    named = {**(sources or {}), **labelled}
    check_apart({"out": out, "csv": csv}, *named.values())
    metrics = tuple(dict.fromkeys(metrics))
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"`metrics`: {name!r} is none of {', '.join(METRICS)}")
    if not any(METRICS[metric].per_picture for metric in metrics):
        of_pictures = {"csv": csv, "bootstrap": bootstrap}
        check_none_given(of_pictures, "is for values of every picture, which no metric here has")
    if rounding not in ROUNDINGS:
        raise InputError(f"`rounding` must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    # what is wrong with these is said before anything is opened
    chosen(0, samples, choose_seed)
    if shave < 0:
        raise InputError(f"`shave` must be at least 0, got {shave}")
    if not any(METRICS[metric].of_pixels for metric in metrics):
        of_pixels = {"luminance": luminance, "shave": shave or None}
        check_none_given(of_pixels, "is for psnr, ssim and ms-ssim")
    if luminance and grey:
        raise InputError("`luminance` and `grey` exclude each other")
    keep_freed_memory()
    if not named:
        raise InputError("nothing to evaluate")
    of_sources = {"size": size, "resize": resize, "grey": grey, "data_dir": data_dir}
    of_arrays = {"L": L, "dims": dims, "data_range": data_range}
    opened = _opened(named, of_sources | of_arrays, rounding)
    for label, pictures in opened.items():
        if luminance and pictures.channels != 3:
            raise InputError(f"{label} is grey, and `luminance` is for pictures in colour")
    asked = None
    if out is not None:
        asked = request(
            what="eval-images",
            sources=[(label, each.identity()) for label, each in opened.items()],
            taken=[(each.crop, each.shrinks, each.channels) for each in opened.values()],
            metrics=metrics,
            samples=samples,
            luminance=luminance,
            shave=shave,
            bootstrap=bootstrap or RESAMPLES,
            **({} if choose_seed is None else {"choose_seed": choose_seed}),
            **({} if rounding == "nearest" else {"rounding": rounding}),
        )
        if is_made(Path(out), asked, overwrite):
            quality = ImageQuality.load(out)
            if csv is not None:
                quality.save_csv(csv, overwrite)
            return quality
    found = evaluate(
        opened,
        metrics,
        samples=samples,
        choose_seed=choose_seed,
        on_luminance=luminance,
        shave=shave,
        batch_size=batch_size,
        weights=None if weights is None else Path(weights),
        device=default_device(),
        progress=progress,
    )
    quality = ImageQuality(
        summarize(found, metrics, bootstrap or RESAMPLES).assign_attrs(
            schema=SCHEMA,
            schema_version=1,
            package_version=__version__,
            sources=[f"{label}={_name(source)}" for label, source in named.items()],
            reference=next(iter(named)),
            metrics=list(metrics),
            pixels=f"8 bits: fields in [-1, 1] rounded to 0 .. 255 ({rounding}) and clipped",
        )
    )
    # somebody may have put another file there meanwhile
    if out is not None and asked is not None and not matches(Path(out), asked, overwrite):
        quality.save(out, asked)
    if csv is not None:
        quality.save_csv(csv, overwrite)
    return quality


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "array"


def _opened(
    sources: Mapping[str, Any], given: Mapping[str, Any], rounding: Rounding
) -> dict[str, Pictures]:
    """Pictures by label; an option goes to the sources that it is for, and others may stand beside.

    Raises:
        InputError: a source cannot be read, or an option is for none.
    """
    opened, taken = {}, set()
    for label, source in sources.items():
        names = _options(source)
        taken |= names
        options = {name: given[name] for name in names if given[name] is not None}
        if names == OF_FILES:
            opened[label] = of_files(label, source, **options)
        elif names == OF_ARRAYS:
            # the basis does not matter here, and need not be looked for
            fields = _fields(label, source, options | {"basis": "cosine"})
            advice = None if "data_range" in options else ADVICE
            opened[label] = of_fields(label, fields, advice, rounding)
        else:
            opened[label] = of_fields(label, _fields(label, source, options), rounding=rounding)
    whose = {"data_dir": "cifar10"} | dict.fromkeys(OF_ARRAYS, "arrays of which nothing is known")
    for name, value in given.items():
        if name not in taken:
            for_these = whose.get(name, "folders of pictures")
            check_none_given({name: value}, f"is for {for_these}, and none is given")
    return opened


def _options(source: Any) -> set[str]:
    """What can be said of a source when it is opened."""
    if isinstance(source, str | Path) and str(source) in WORDS:
        return {"data_dir"} if str(source).startswith("cifar10") else {"size"}
    if holds_pictures(source):
        return OF_FILES
    return OF_ARRAYS if is_foreign(source) else set()


def _fields(label: str, source: Any, options: dict[str, Any]) -> xr.DataArray:
    if isinstance(source, str | Path):
        return open_fields(source, **options)
    try:
        return open_fields(source, **options)
    except InputError as error:
        raise InputError(f"{label}: {error}") from None


def _value(row: Row) -> str:
    if row.subset_std is not None:
        return f"{row.value:.5g} (subsets: +- {row.subset_std:.2g})"
    return with_error(row.value, row.stderr or 0.0)
