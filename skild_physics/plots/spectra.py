"""Spectra with their fits, and their ratios."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.markers import CARETDOWN, CARETUP
from numpy.typing import NDArray

from skild_physics.plots.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    VERMILLION,
    Axes,
    Figure,
    bars,
    lettered,
    looks,
    new_figure,
    plain,
    zero_line,
)
from skild_physics.tables import with_error

if TYPE_CHECKING:
    from skild_physics.spectrum import Spectrum

CHANNELS = {
    "red": {"color": VERMILLION, "marker": "s"},
    "green": {"color": GREEN, "marker": "^"},
    "blue": {"color": BLUE, "marker": "o"},
}
# index of the edge, and the marker that points beyond it
_DOWN, _UP = (0, CARETDOWN), (1, CARETUP)


class _Row(NamedTuple):
    """The mean over channels of a spectrum, or one of these, (shell,), and how it is drawn."""

    spectrum: "Spectrum"
    S: NDArray[np.float64]
    stderr: NDArray[np.float64]
    look: dict[str, str]
    label: str | None = None


def spectrum_figure(spectra: Sequence["Spectrum"]) -> Figure:
    """Spectra with their fits, and their ratios below, as the next two functions draw them."""
    with new_figure(COLUMN, 4.2) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.9, 1))
        draw_spectra(top, spectra).set_xlabel("")
        draw_ratios(bottom, spectra)
        if len(spectra) == 1:
            top.set_title(plain(spectra[0].source))
        lettered((top, bottom))
    return figure


def draw_spectra(ax: Axes, spectra: Sequence["Spectrum"]) -> Axes:
    """Radial variance spectra and their fits; the axes that were given.

    One spectrum is drawn channel by channel, as in figure 2 of arXiv 2605.26032; several are
    overlaid as means over channels. Each fit is a full line within its range, dotted outside; with
    one spectrum the range is shaded. The axis of k is linear up to the first shell above 0, and
    logarithmic from there.
    """
    rows = _rows(spectra)
    for row in rows:
        x, S, stderr = _crowded(row.spectrum.k, row.S, row.stderr)
        bars(ax, x, S, stderr, markersize=2.5, label=row.label, **row.look)
    for spectrum, look in _looks(spectra):
        k, law = spectrum.k, spectrum.fit.law
        everywhere = np.concatenate([np.linspace(k[0], k[1], 50), np.geomspace(k[1], k[-1], 400)])
        inside = everywhere[_is_fitted(spectrum, everywhere)]
        error = spectrum.law_stderr[2]
        alpha = with_error(law.alpha, error) if error > 0 else f"{law.alpha:.4g}"
        name = plain(spectrum.source) if len(spectra) > 1 else "$C(k^2+k_0^2)^{-\\alpha}$"
        color = look["color"] if len(spectra) > 1 or len(rows) == 1 else BLACK
        ax.plot(everywhere, law(everywhere), ":", color=color, linewidth=0.8)
        ax.plot(inside, law(inside), color=color, label=f"{name}, $\\alpha$ = {alpha}")
    ax.set(yscale="log", ylabel=f"$S_0(k)$, {spectra[0].normalization} normalisation")
    ax.legend(loc="upper right")
    return _on_wavenumbers(ax, spectra)


def draw_ratios(ax: Axes, spectra: Sequence["Spectrum"]) -> Axes:
    """Ratios of radial variance spectra to their fits, as above; the axes that were given.

    Points beyond the edges, which are those of the fitted range, stand there as arrows.
    """
    furthest, drawn = 0.02, []
    for spectrum, S, stderr, look, label in _rows(spectra):
        law = spectrum.fit.law(spectrum.k)
        x, ratio, error = _crowded(spectrum.k, S / law, stderr / law)
        bars(ax, x, ratio, error, markersize=2.5, label=label, **look)
        fitted = np.abs(np.log(ratio[_is_fitted(spectrum, x)]))
        furthest = max(furthest, 1.3 * float(fitted.max()))
        drawn.append((x, ratio, look["color"]))
    zero_line(ax, 1)
    edges = np.exp([-furthest, furthest])
    ax.set_ylim(*edges)
    for x, ratio, color in drawn:
        for beyond, edge, arrow in ((ratio < edges[0], *_DOWN), (ratio > edges[1], *_UP)):
            if beyond.any():
                at = np.full(beyond.sum(), edges[edge])
                ax.plot(x[beyond], at, linestyle="none", marker=arrow, color=color, clip_on=False)
    if furthest > 1:
        ax.set_yscale("log")
        ticks = [tick for tick in (0.01, 0.1, 0.5, 1, 2, 10, 100) if edges[0] < tick < edges[1]]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_yticks([], minor=True)
    ax.set_ylabel("measured / fit")
    return _on_wavenumbers(ax, spectra)


def _looks(spectra: Sequence["Spectrum"]) -> list[tuple["Spectrum", dict[str, str]]]:
    looked = looks([f"{i}" for i in range(len(spectra))])
    return list(zip(spectra, looked.values(), strict=True))


def _rows(spectra: Sequence["Spectrum"]) -> list[_Row]:
    if len(spectra) == 1 and len(spectra[0].channels) > 1:
        (one,) = spectra
        looked = looks(one.channels) | CHANNELS
        rows = zip(one.channels, one.S, one.S_stderr, strict=True)
        return [_Row(one, S, stderr, looked[name], plain(name)) for name, S, stderr in rows]
    return [_Row(each, each.profile, each.profile_stderr, look) for each, look in _looks(spectra)]


def _is_fitted(spectrum: "Spectrum", k: NDArray[np.float64]) -> NDArray[np.bool_]:
    low, high = spectrum.fit_range
    # means of shells and ends of lines differ from these by rounding
    return np.asarray((k >= low * (1 - 1e-9)) & (k <= high * (1 + 1e-9)))


def _on_wavenumbers(ax: Axes, spectra: Sequence["Spectrum"]) -> Axes:
    one, first = spectra[0], min(float(each.k[each.k > 0][0]) for each in spectra)
    last = max(float(each.k[-1]) for each in spectra)
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    ticks = 10.0 ** np.arange(np.floor(np.log10(first)), np.log10(last))
    between = np.outer(ticks, np.arange(2, 10)).ravel()
    ticks = ticks[ticks >= first]
    ax.set_xticks([0, *ticks], ["0", *(f"$10^{{{np.log10(tick):.0f}}}$" for tick in ticks)])
    ax.set_xticks(between[(between >= first) & (between <= last)], minor=True)
    ax.set_xlim(-0.3 * first, 1.1 * last)
    if len(spectra) == 1:
        ax.axvspan(*one.fit_range, color=BLACK, alpha=0.06, linewidth=0)
    what = "lattice momentum" if one.momentum == "lattice" else "wavenumber $k$"
    ax.set_xlabel(f"{what}  (radian / box side)")
    return ax


def _crowded(k: NDArray[np.float64], *rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """k and rows over shells, (shell,), averaged where thousands of them would hide each other.

    Of errors the mean is an upper limit, since shells fluctuate together.
    """
    step = np.floor(60 * np.log10(np.maximum(k, k[1] / 2)))
    groups = np.flatnonzero(np.diff(step, prepend=-np.inf))
    counts = np.diff(groups, append=len(k))
    return [np.add.reduceat(np.nan_to_num(row), groups) / counts for row in (k, *rows)]
