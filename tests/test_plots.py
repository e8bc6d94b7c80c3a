"""Figures show what the results say: points where numbers are, one look for one method."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import skild_physics as sk
from skild_physics import plots
from skild_physics.plots import style
from skild_physics.tables import with_error


@pytest.fixture(scope="module")
def lattices():
    return sk.generate_ising(L=16, samples=256, seed=4)


@pytest.fixture(scope="module")
def result(lattices):
    soft = (0.9 * lattices.astype("float32") + 0.01)[::-1]
    return sk.eval_correlators(truth=lattices, SKILD=lattices[::-1], unconditional=soft)


@pytest.fixture(scope="module")
def spectrum(lattices):
    return sk.fit_spectrum(lattices, momentum="lattice", k_min=12)


def points(ax):
    """Of every label: x, y and the half lengths of the bars."""
    return {
        each.get_label(): (
            *each.lines[0].get_data(),
            [np.ptp(segment[:, 1]) / 2 for segment in each.lines[2][0].get_segments()],
        )
        for each in ax.containers
    }


def luminance(color):
    """Of sRGB, as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_residuals_stand_where_they_are_with_their_errors(result):
    with plots.new_figure(3, 3) as figure:
        ax = figure.subplots()
        assert plots.draw_correlators(ax, result.dataset, "kappa4_residual") is ax
    drawn = points(ax)
    # raw fields beside their signs would say everything twice
    assert list(drawn) == ["SKILD", "unconditional"]
    assert "unconditional (raw)" in result.dataset["source"].values
    for label, (x, y, bars) in drawn.items():
        row = result.dataset.sel(source=label)
        assert np.array_equal(y, row["kappa4_residual"])
        assert np.allclose(bars, row["kappa4_residual_stderr"], rtol=1e-12)
        assert np.all(np.abs(np.log2(x / row["side"])) < 0.3)
    (first, _, _), (second, _, _) = drawn.values()
    assert np.all(second > first)


def test_a_method_looks_the_same_in_every_figure(result):
    figure = result.plot()
    *_, left, right = figure.get_axes()
    looked = style.looks(["truth", "SKILD", "unconditional"], "truth")
    for ax in (left, right):
        for each in ax.containers:
            line, look = each.lines[0], looked[each.get_label()]
            assert (line.get_color(), line.get_marker()) == (look["color"], look["marker"])
    assert looked["SKILD"] == style.looks(["other", "skild"])["skild"]
    assert looked["truth"]["color"] == style.BLACK


def test_seventy_sources_can_be_told_apart():
    labels = ["truth", "SKILD", *(str(i) for i in range(60))]
    looked = [tuple(look.values()) for look in style.looks(labels, "truth").values()]
    assert len(set(looked)) == len(labels)


def test_methods_differ_in_grey_or_in_their_markers():
    looked = set(style.METHODS.values())
    assert len({marker for _, marker in looked}) == len(looked)
    assert luminance("white") == pytest.approx(1)
    colors = sorted({luminance(color) for color, _ in looked})
    assert all(high - low > 0.005 for low, high in pairwise(colors))


def test_a_spectrum_agrees_with_its_ratio_at_every_k(spectrum):
    top, bottom = spectrum.plot().get_axes()
    (x, S, _), (k, ratio, _) = (next(iter(points(ax).values())) for ax in (top, bottom))
    assert k[0] == x[0] == 0
    assert np.allclose(S / spectrum.fit.law(x), ratio, rtol=0.02)
    line = next(line for line in top.lines if line.get_linestyle() == ":")
    assert line.get_data()[1][0] == spectrum.fit.law(0)
    alpha = with_error(spectrum.fit.law.alpha, spectrum.law_stderr[2])
    assert alpha in top.get_legend().get_texts()[0].get_text()
    # what is beyond the edges is said to be
    low, high = bottom.get_ylim()
    beyond = (ratio < low) | (ratio > high)
    arrows = [line for line in bottom.lines if not line.get_clip_on()]
    assert sum(len(line.get_xdata()) for line in arrows) == beyond.sum() > 0


def test_everything_draws_on_axes_that_are_given(spectrum, result, lattices):
    with plots.new_figure(6, 4) as figure:
        axes = figure.subplots(2, 2).ravel()
        assert spectrum.plot(axes[0]) is axes[0]
        assert plots.draw_ratios(axes[1], [spectrum, spectrum]) is axes[1]
        assert result.plot(axes[2]) is axes[2]
        assert plots.draw_field(axes[3], lattices[0].values) is axes[3]
    assert all(len(ax.lines) + len(ax.images) for ax in axes)


def test_the_style_is_a_sheet_for_everybody(spectrum, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = spectrum.plot()
    with matplotlib.style.context("skild_physics.plots.skild"):
        size = matplotlib.rcParams["xtick.labelsize"]
    assert size != before["xtick.labelsize"]
    # also where somebody else saves it, without the style
    figure.savefig(tmp_path / "spectrum.pdf")
    labels = [tick.label1 for ax in figure.axes for tick in ax.xaxis.get_major_ticks()]
    assert {label.get_fontsize() for label in labels} == {size}
    assert dict(matplotlib.rcParams) == before


def test_notebooks_show_figures_without_pyplot(spectrum):
    assert spectrum.plot()._repr_png_().startswith(b"\x89PNG")


def test_names_of_anybody(lattices):
    """A dollar sign begins no formula, and long titles do not run into each other."""
    labels = {"cost_$_of": lattices[:32], "a long label of words " * 3: lattices[32:]}
    figure = sk.eval_correlators({"truth": lattices, **labels}).plot()
    texts = [text.get_text() for text in figure.subfigs[1].legends[0].get_texts()]
    assert texts[1] == r"cost_\$_of"
    assert "\n" in figure.subfigs[0].axes[2].get_title(loc="left")
