"""Scale-invariant fields: critical Ising ensembles, spectra, SKILD diffusion, correlators."""

from importlib.metadata import version

__version__ = version("skild_physics")
