"""Variance spectra: streaming moments, radial shells, power-law fits."""

from skild_physics.spectrum.fit import Fit, PowerLaw, fit_power_law
from skild_physics.spectrum.measure import (
    FitOptions,
    fit_spectra,
    fit_spectrum,
    measure_blocks,
    spectrum_from_blocks,
    spectrum_from_variance,
)
from skild_physics.spectrum.moments import ModeMoments
from skild_physics.spectrum.types import Spectrum

__all__ = [
    "Fit",
    "FitOptions",
    "ModeMoments",
    "PowerLaw",
    "Spectrum",
    "fit_power_law",
    "fit_spectra",
    "fit_spectrum",
    "measure_blocks",
    "spectrum_from_blocks",
    "spectrum_from_variance",
]
