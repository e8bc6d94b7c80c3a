"""Figures of spectra, correlators and fields, in one style; also onto axes of yours.

The names are imported when they are used, and matplotlib with them. The style sheet is for figures
of your own, too: ``matplotlib.style.use("skild_physics.plots.skild")``.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skild_physics.plots.correlators import correlator_figure as correlator_figure
    from skild_physics.plots.correlators import draw_correlators as draw_correlators
    from skild_physics.plots.output import check_figure as check_figure
    from skild_physics.plots.output import save_figure as save_figure
    from skild_physics.plots.pictures import draw_field as draw_field
    from skild_physics.plots.pictures import enlargements_figure as enlargements_figure
    from skild_physics.plots.pictures import fields_figure as fields_figure
    from skild_physics.plots.pictures import samples_figure as samples_figure
    from skild_physics.plots.spectra import draw_ratios as draw_ratios
    from skild_physics.plots.spectra import draw_spectra as draw_spectra
    from skild_physics.plots.spectra import spectrum_figure as spectrum_figure
    from skild_physics.plots.style import Figure as Figure
    from skild_physics.plots.style import looks as looks
    from skild_physics.plots.style import new_figure as new_figure

_WHERE = {
    "Figure": "style",
    "check_figure": "output",
    "correlator_figure": "correlators",
    "draw_correlators": "correlators",
    "draw_field": "pictures",
    "draw_ratios": "spectra",
    "draw_spectra": "spectra",
    "enlargements_figure": "pictures",
    "fields_figure": "pictures",
    "looks": "style",
    "new_figure": "style",
    "samples_figure": "pictures",
    "save_figure": "output",
    "spectrum_figure": "spectra",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> "Any":
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
