"""Measure a spectrum and its error bars.

Fields are gathered into blocks of consecutive samples; every derived quantity theta (a shell's
variance, a parameter of the fit) gets the delete-one-block jackknife error

    sigma^2 = (B - 1)/B sum_b (theta_b - mean theta)^2,

where theta_b leaves block b out. Unlike the Gaussian formula S sqrt(2/nu) this holds for
non-Gaussian modes, and for correlated samples as long as blocks are longer than the correlation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.cluster import check_in_file, dask_client
from skild_physics.fields import (
    basis_of,
    batches,
    channels_of,
    load_variance_map,
    open_fields,
    pictures_of,
)
from skild_physics.fields.arrangement import MAX_CHANNELS
from skild_physics.fields.identity import identity
from skild_physics.fields.lazy import digest, log_skipped, slices
from skild_physics.fields.sources import Opening, is_foreign
from skild_physics.files import InputError, check_apart, check_none_given
from skild_physics.kspace import Basis, Momentum, Normalization, normalization_factor
from skild_physics.observables.jackknife import Replicas
from skild_physics.progress import Progress, logger, silent
from skild_physics.requests import check_result, is_made, matches, request
from skild_physics.spectrum.fit import (
    Fit,
    Goodness,
    Method,
    fit_power_law,
    goodness_of_fit,
    log_parameters,
)
from skild_physics.spectrum.moments import ModeMoments, Statistic
from skild_physics.spectrum.radial import radial_mean, shells
from skild_physics.spectrum.types import Spectrum

N_BLOCKS = 32
EMPTY = 1e-12
"""Variance of a shell over that of a mean mode that counts as none."""
ROUNDING = 1e-24
"""Variance over the square of the mean that double precision leaves in constant fields."""

CACHED_VALUES = 2**17
"""Values transformed at a time: a megabyte, so that the passes over them stay in the cache."""


def fit_spectrum(
    source: Any,
    *,
    method: Method = "likelihood",
    k_min: float | None = None,
    k_max: float | None = None,
    momentum: Momentum = "continuum",
    k0_squared: float | None = None,
    normalization: Normalization | None = None,
    statistic: Statistic | None = None,
    strict: bool = False,
    variance_map: bool = False,
    n_samples: int | None = None,
    scheduler: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **opening: Unpack[Opening],
) -> Spectrum:
    """The variance spectrum of fields, and the law S0(k) = C (k^2 + k0^2)^(-alpha) fitted to it.

    Args:
        source: anything that :func:`skild_physics.fields.open_fields` takes; or a variance map.
        method: "likelihood" weighs every shell by its degrees of freedom; "paper": plain least
            squares; see :mod:`skild_physics.spectrum.fit`.
        k_min: smallest wavenumber of the fit, radians per box side; None fits from the first shell.
        k_max: largest wavenumber of the fit, radians per box side.
        momentum: what k means: "continuum", pi sqrt(u^2 + v^2), or "lattice", 2N sin(k/2N).
        k0_squared: hold k0^2 at this value; 0 fits a pure power of k.
        normalization: "paper" doubles the variance of cosine modes with u = 0 or v = 0; "isotropic"
            does not; None: the paper's.
        statistic: "variance", that of the modes; or "magnitude", that of their magnitudes, as
            published spectra are, see :mod:`skild_physics.spectrum.moments`; None: the variance.
        strict: a picture that cannot be used is an error; else it is left out, and named in the log
            of the package.
        variance_map: the source is no fields, but a variance map, in the normalisation of the
            paper: an array (N, N) or (channel, N, N), or a .npy or .npz file of one.
        n_samples: of a variance map, the number of fields behind it.
        scheduler: address of a Dask scheduler whose workers see the files and measure them.
        out: NetCDF file to write; if it holds what is asked for already, that is returned.
        overwrite: replace an existing file.
        progress: shows how many fields are done.
        opening: see :func:`skild_physics.fields.open_fields`; ``basis`` is that of the modes, None
            of a variance map cosine.

    Raises:
        InputError: data that cannot be read, fewer than two fields, nan, too few shells between
            k_min and k_max, or options that do not apply.

    >>> import skild_physics as sk
    >>> spectrum = sk.fit_spectrum(sk.generate_ising(L=16, samples=256), k_min=6, k_max=40)
    >>> 0.5 < spectrum.fit.law.alpha < 1.5
    True
    """
    (found,) = fit_spectra(
        [source],
        [out],
        FitOptions(method, k_min, k_max, momentum, k0_squared),
        overwrite=overwrite,
        progress=progress,
        normalization=normalization,
        statistic=statistic,
        strict=strict,
        variance_map=variance_map,
        n_samples=n_samples,
        scheduler=scheduler,
        **opening,
    )
    return found


def fit_spectra(
    sources: Sequence[Any],
    outs: Sequence[str | Path | None],
    how: "FitOptions",
    *,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **of_source: Any,
) -> list[Spectrum]:
    """Several spectra, see :func:`fit_spectrum`; none is written before all are measured.

    Args:
        sources: of each.
        outs: the file to write of each, or None.
        how: the laws are fitted.
        scheduler: address of a Dask scheduler whose workers see the files and measure them.
        overwrite: replace existing files.
        progress: shows how many fields are done.
        of_source: normalization, statistic, strict, variance_map, n_samples and options of opening.

    Raises:
        InputError: as :func:`fit_spectrum`.
    """
    for out in outs:
        if out is not None:
            check_result(out, overwrite)
            check_apart({"out": out}, *sources)
    with ExitStack() as stack:
        opened = [_opened(source, how, progress, stack, **of_source) for source in sources]
        asked, made = [], []
        for out, each in zip(outs, opened, strict=True):
            named = {"of": each.identity(), "how": asdict(how)} if out is not None else {}
            asked.append(request(what="fit-spectrum", **named, **each.options))
            made.append(out is not None and is_made(Path(out), asked[-1], overwrite))
        client = stack.enter_context(dask_client(scheduler)) if scheduler else None
        found = []
        for out, each, done in zip(outs, opened, made, strict=True):
            found.append(Spectrum.load(out) if out is not None and done else each.measure(client))
    for spectrum, out, name, done in zip(found, outs, asked, made, strict=True):
        # somebody may have put another file there meanwhile
        if out is not None and not done and not matches(Path(out), name, overwrite):
            spectrum.save(out, name)
    return found


@dataclass(frozen=True)
class _Opened:
    """A source: what tells it from others, what is asked of it, and what measures it."""

    identity: Callable[[], Any]
    options: dict[str, Any]
    measure: Callable[[Any], Spectrum]


def _opened(
    source: Any,
    how: "FitOptions",
    progress: Progress,
    stack: ExitStack,
    *,
    normalization: Normalization | None = None,
    statistic: Statistic | None = None,
    strict: bool = False,
    variance_map: bool = False,
    n_samples: int | None = None,
    **opening: Unpack[Opening],
) -> _Opened:
    if variance_map:
        basis = opening.pop("basis", None) or "cosine"
        own = {"normalization": normalization, "statistic": statistic, "strict": strict}
        of_fields = {**own, **opening}
        check_none_given(of_fields, "is for fields, and goes without `variance_map`")
        variance = load_variance_map(source)
        name = Path(source).name if isinstance(source, str | Path) else "variance map"
        return _Opened(
            lambda: {"map": digest(variance), "shape": variance.shape, "source": name},
            {"basis": basis, "n_samples": n_samples},
            lambda client: spectrum_from_variance(variance, n_samples, basis, name, how),
        )
    check_none_given({"n_samples": n_samples}, "goes with `variance_map`; fields are counted")
    fields = open_fields(source, **opening)
    if isinstance(source, str | Path):
        stack.callback(fields.close)
    name = str(fields.attrs.get("source", "fields"))
    may_be_map = len(fields) <= MAX_CHANNELS and "channel" not in fields.dims
    if may_be_map and is_foreign(source):
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        logger.warning(f"{name}: taken for {count}; a variance map is declared as one")
    options: dict[str, Any] = {"normalization": normalization or "paper", "strict": strict}
    # a file of variances is known again whether or not this was asked for
    options |= {"statistic": statistic} if statistic not in (None, "variance") else {}

    def measure(client: Any) -> Spectrum:
        skipped: dict[str, str] = {}
        blocks = measure_blocks(
            fields,
            statistic=statistic or "variance",
            skipped=None if strict else skipped,
            progress=progress,
            client=client,
        )
        log_skipped(skipped, fields)
        return spectrum_from_blocks(
            blocks,
            basis_of(fields),
            how,
            source=name,
            channels=channels_of(fields),
            normalization=normalization or "paper",
        )

    # of pictures that are not decoded for it, what is taken of them is not in their identity
    flags = {key: bool(opening.get(key)) for key in ("tile", "resize", "grey")}
    options |= {"size": opening.get("size"), **flags}
    return _Opened(lambda: identity(source, fields), options, measure)


@dataclass(frozen=True)
class FitOptions:
    """How a law is fitted, see :func:`fit_spectrum`."""

    method: Method = "likelihood"
    k_min: float | None = None
    k_max: float | None = None
    momentum: Momentum = "continuum"
    k0_squared: float | None = None

    def inside(
        self, k: NDArray[np.float64], filled: NDArray[np.bool_], source: str
    ) -> NDArray[np.bool_]:
        """Which shells are fitted, of those that have a variance.

        Raises:
            InputError: fewer than four.
        """
        low = -np.inf if self.k_min is None else self.k_min
        high = np.inf if self.k_max is None else self.k_max
        inside: NDArray[np.bool_] = (k >= low) & (k <= high) & filled
        if inside.sum() < 4:
            raise InputError(
                f"{source}: a fit needs at least 4 shells, got {inside.sum()} between k = {low:g} "
                f"and {high:g} (shells lie at {k[0]:.4g} .. {k[-1]:.4g} radians per box side); "
                "widen `k_min` .. `k_max`, or measure larger fields"
            )
        return inside


def measure_blocks(
    fields: xr.DataArray,
    basis: Basis | None = None,
    n_blocks: int = N_BLOCKS,
    skipped: dict[str, str] | None = None,
    progress: Progress = silent,
    statistic: Statistic = "variance",
    client: Any = None,
) -> list[ModeMoments]:
    """Moments of blocks of consecutive fields, in bounded memory.

    Args:
        fields: (sample, y, x) or (sample, channel, y, x); patches of one picture are never divided
            between blocks.
        basis: basis of the modes; None: the natural one of the fields.
        n_blocks: number of blocks; fewer if there are fewer fields.
        skipped: takes pictures that cannot be used, see :func:`skild_physics.fields.batches`.
        progress: shows how many fields are done.
        statistic: of the modes, or of their magnitudes.
        client: a Dask client whose workers see the same files and measure; None: this process.

    Raises:
        InputError: fields cannot be read, or hold nan, infinity or codes of missing values; or
            workers are to measure what was not opened from a file.
    """
    basis, picture = basis or basis_of(fields), pictures_of(fields)
    items = int(picture[-1]) + 1
    edges = np.linspace(0, items, min(n_blocks, items) + 1).astype(int)
    parts = list(pairwise(np.searchsorted(picture, edges).tolist()))
    blocks = []
    name = fields.attrs.get("source", "fields")
    block = partial(_block, fields, basis, statistic, skipped is not None)
    if client is None:
        measured = (block(*part) for part in parts)
    else:
        check_in_file(fields)
        jobs = [client.submit(block, *part, pure=False) for part in parts]
        measured = (job.result() for job in jobs)
    with progress(f"measure {name}", len(fields)) as show:
        for (_, stop), (moments, left_out) in zip(parts, measured, strict=True):
            if moments is not None:
                blocks.append(moments)
            if skipped is not None:
                skipped |= left_out
            show(stop)
    if not blocks and skipped:
        first, reason = next(iter(skipped.items()))
        raise InputError(
            f"{name}: all {len(skipped)} pictures were skipped, the first {first}: {reason}"
        )
    return blocks


def _block(
    fields: xr.DataArray, basis: Basis, statistic: Statistic, skips: bool, start: int, stop: int
) -> tuple[ModeMoments | None, dict[str, str]]:
    """Moments of these fields, if there are any, and the pictures that cannot be used."""
    total: ModeMoments | None = None
    skipped: dict[str, str] = {}
    for batch in batches(fields, start, stop, skipped if skips else None):
        for piece in slices(0, len(batch), max(1, CACHED_VALUES // batch[0].size)):
            part = ModeMoments.of(batch[piece], basis, statistic)
            total = part if total is None else total.merge(part)
    return total, skipped


def spectrum_from_blocks(
    blocks: list[ModeMoments],
    basis: Basis,
    how: FitOptions = FitOptions(),
    *,
    source: str = "",
    channels: Sequence[str] | None = None,
    normalization: Normalization = "paper",
) -> Spectrum:
    """Variance, radial profile and fitted law with jackknife errors over blocks, of 8 or more.

    Args:
        blocks: moments of consecutive blocks of fields, at least two.
        basis: the basis the moments were taken in.
        how: the law is fitted.
        source: name of the data, kept with the result.
        channels: names of the channels; None numbers them.
        normalization: of the reported spectrum.

    Raises:
        InputError: fewer than two blocks, too few shells between k_min and k_max, or what
            :func:`skild_physics.spectrum.fit.fit_power_law` raises.
    """
    if len(blocks) < 2:
        raise InputError(
            f"{source + ': ' if source else ''}a variance needs at least 2 fields or pictures, got "
            f"{len(blocks)}; cut a large field into several, or give more"
        )
    total = reduce(ModeMoments.merge, blocks)
    N = total.mean.shape[-1]
    factor2 = normalization_factor(N, basis, normalization) ** 2
    k, modes, _ = shells(N, basis, how.momentum)

    def fit(S: NDArray[np.float64], count: int) -> Fit:
        profile = S.mean(axis=0)[inside]
        return fit_power_law(k[inside], profile, modes[inside], count, how.method, how.k0_squared)

    def radial(moments: ModeMoments) -> NDArray[np.float64]:
        return radial_mean(moments.variance * factor2, basis, how.momentum)

    S = radial(total)
    rounding = ROUNDING * float((total.mean**2 * factor2).mean())
    inside = how.inside(k, _filled(S.mean(axis=0), modes, source, rounding), source)
    best = fit(S, total.count)
    counts = [total.count - block.count for block in blocks]
    if min(counts) < 2:
        # too few for error bars in any case
        replicas, counts = np.stack([S] * len(blocks)), [total.count] * len(blocks)
    else:
        replicas = np.stack([radial(moments) for moments in _leave_one_out(blocks)])
    parameters = np.stack(
        [log_parameters(fit(r, count).law) for r, count in zip(replicas, counts, strict=True)]
    )
    # a parameter that is held, or never leaves its bound, has no spread
    parameters = np.where(np.isfinite(parameters), parameters, 0.0)
    profiles = replicas.mean(axis=1)
    goodness = goodness_of_fit(best, k[inside], modes[inside], total.count, profiles[:, inside])
    return Spectrum(
        variance=total.variance * factor2,
        channels=tuple(channels or _numbered(len(S))),
        basis=basis,
        normalization=normalization,
        momentum=how.momentum,
        n_samples=total.count,
        S=S,
        S_stderr=Replicas(S, replicas).stderr,
        profile_stderr=Replicas(S.mean(axis=0), profiles).stderr,
        fit=best,
        covariance=Replicas(log_parameters(best.law), parameters).covariance,
        goodness=goodness,
        fit_range=(float(k[inside][0]), float(k[inside][-1])),
        n_blocks=len(blocks),
        source=source,
        statistic=total.statistic,
    )


def spectrum_from_variance(
    variance: NDArray[np.float64],
    n_samples: int | None = None,
    basis: Basis = "cosine",
    source: str = "",
    how: FitOptions = FitOptions(),
) -> Spectrum:
    """A spectrum from a per-mode variance map, with the errors of Gaussian modes.

    Args:
        variance: shape (channel, N, N), in the paper's normalisation.
        n_samples: number of fields behind it; None leaves all errors unknown (nan).
        basis: basis of the modes.
        source: name of the data, kept with the result.
        how: the law is fitted.

    Raises:
        InputError: n_samples below two, or what :func:`spectrum_from_blocks` raises.
    """
    if n_samples is not None and n_samples < 2:
        raise InputError(f"`n_samples` must be at least 2, got {n_samples}")
    N = variance.shape[-1]
    k, modes, _ = shells(N, basis, how.momentum)
    S = radial_mean(variance, basis, how.momentum)
    profile = S.mean(axis=0)
    inside = how.inside(k, _filled(profile, modes, source), source)
    known = np.nan if n_samples is None else 1.0
    count = n_samples or 2
    fit = fit_power_law(
        k[inside], profile[inside], modes[inside], count, how.method, how.k0_squared
    )
    gaussian = known * np.sqrt(2 / (modes * (count - 1)))
    return Spectrum(
        variance=variance,
        channels=_numbered(len(S)),
        basis=basis,
        normalization="paper",
        momentum=how.momentum,
        n_samples=n_samples,
        S=S,
        S_stderr=S * gaussian,
        profile_stderr=profile * gaussian,
        fit=fit,
        covariance=known * fit.covariance,
        goodness=Goodness(known * fit.deviance, fit.degrees_of_freedom),
        fit_range=(float(k[inside][0]), float(k[inside][-1])),
        n_blocks=0,
        source=source,
    )


def _filled(
    profile: NDArray[np.float64], modes: NDArray[np.int64], source: str, rounding: float = 0.0
) -> NDArray[np.bool_]:
    """Shells that have a variance; that of others is what ``rounding`` left.

    Raises:
        InputError: none has, or one is infinite.
    """
    mean = np.average(profile, weights=modes)
    if not rounding < mean < np.inf:
        raise InputError(
            f"{source}: the variance must be positive and finite: is the data constant?"
        )
    filled: NDArray[np.bool_] = profile > EMPTY * mean
    if not filled.all():
        logger.info(
            f"{source}: {np.count_nonzero(~filled)} of {len(filled)} shells have no variance and "
            "are not fitted" + ("" if filled[0] else "; every field has the same mean")
        )
    return filled


def _numbered(channels: int) -> tuple[str, ...]:
    return tuple(f"channel {i + 1}" for i in range(channels))


def _leave_one_out(
    blocks: list[ModeMoments], outside: ModeMoments | None = None
) -> Iterator[ModeMoments]:
    """Merged moments without each block in turn, holding but a few of them at a time.

    Halves are taken in turn, with what is outside of each, down to single blocks: B log B merges.
    """
    if len(blocks) == 1:
        yield outside or blocks[0]
        return
    half = len(blocks) // 2
    for inside, others in ((blocks[:half], blocks[half:]), (blocks[half:], blocks[:half])):
        rest = reduce(ModeMoments.merge, others)
        yield from _leave_one_out(inside, rest if outside is None else outside.merge(rest))
