"""Scale-invariant fields: critical Ising ensembles, spectra, SKILD diffusion, correlators."""

from importlib.metadata import version
from pkgutil import extend_path

# Python started in a checkout finds this folder first; the installed package, which maps the
# checkout's cli/ and data_gen/ to skild_physics.cli and skild_physics.data_gen, comes second
__path__ = extend_path(__path__, __name__)

__version__ = version("skild_physics")
