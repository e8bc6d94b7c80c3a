"""Scale-invariant fields: critical Ising ensembles, spectra, SKILD diffusion, correlators.

    import skild_physics as sk

    truth = sk.generate_ising(L=64, samples=1024, seed=2, out="held.h5")
    model = sk.load("bundled")
    again = model.reconstruct(truth[:256], factor=4)
    print(sk.eval_correlators(truth=truth, skild=again))

A command of the shell and its function here have the same name and the same arguments.
"""

import os
from importlib import import_module
from pkgutil import extend_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skild_physics.config import load_config as load_config
    from skild_physics.data_gen.draws import sample_exact as sample_exact
    from skild_physics.data_gen.ising import generate_ising as generate_ising
    from skild_physics.data_gen.relaxed import relax as relax
    from skild_physics.diffusion.sampler import Ancestral as Ancestral
    from skild_physics.diffusion.sampler import Multistep as Multistep
    from skild_physics.diffusion.sampler import Stochastic as Stochastic
    from skild_physics.fields.importing import import_fields as import_fields
    from skild_physics.fields.prepare import prepare_images as prepare_images
    from skild_physics.fields.resampling import coarse_grain as coarse_grain
    from skild_physics.fields.resampling import interpolate as interpolate
    from skild_physics.fields.sources import open_fields as open  # noqa: F401
    from skild_physics.fields.writing import save as save
    from skild_physics.files import InputError as InputError
    from skild_physics.inspection import Info as Info
    from skild_physics.inspection import info as info
    from skild_physics.models.base import Model as Model
    from skild_physics.models.checkpoint import load as load
    from skild_physics.models.published import import_checkpoint as import_checkpoint
    from skild_physics.observables.draw_results import Draws as Draws
    from skild_physics.observables.draws import eval_draws as eval_draws
    from skild_physics.observables.ensemble import summarize as summarize
    from skild_physics.observables.evaluate import eval_correlators as eval_correlators
    from skild_physics.observables.results import Correlators as Correlators
    from skild_physics.pipeline.reproduce import reproduce as reproduce
    from skild_physics.progress import bar as bar
    from skild_physics.quality.results import ImageQuality as ImageQuality
    from skild_physics.quality.results import eval_images as eval_images
    from skild_physics.spectrum.measure import fit_spectrum as fit_spectrum
    from skild_physics.spectrum.types import Spectrum as Spectrum
    from skild_physics.training.train import train as train
    from skild_physics.version import __version__ as __version__

# Python started in a checkout finds this folder first; the installed package, which maps the
# checkout's cli/ and data_gen/ to skild_physics.cli and skild_physics.data_gen, comes second
__path__ = extend_path(__path__, __name__)

if "OMP_WAIT_POLICY" not in os.environ:
    # Before torch is imported: threads of GNU OpenMP that wait for each other spin, which makes
    # networks thirty times as slow beside a busy neighbour. So little costs nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# imported when they are asked for: most need xarray, many torch
_WHERE = {
    "__version__": "version",
    "Ancestral": "diffusion.sampler",
    "Correlators": "observables.results",
    "Draws": "observables.draw_results",
    "ImageQuality": "quality.results",
    "Info": "inspection",
    "InputError": "files",
    "Model": "models.base",
    "Multistep": "diffusion.sampler",
    "Spectrum": "spectrum.types",
    "Stochastic": "diffusion.sampler",
    "bar": "progress",
    "coarse_grain": "fields.resampling",
    "eval_correlators": "observables.evaluate",
    "eval_draws": "observables.draws",
    "eval_images": "quality.results",
    "fit_spectrum": "spectrum.measure",
    "generate_ising": "data_gen.ising",
    "import_checkpoint": "models.published",
    "import_fields": "fields.importing",
    "info": "inspection",
    "interpolate": "fields.resampling",
    "load": "models.checkpoint",
    "load_config": "config",
    "open": "fields.sources",
    "prepare_images": "fields.prepare",
    "relax": "data_gen.relaxed",
    "reproduce": "pipeline.reproduce",
    "sample_exact": "data_gen.draws",
    "save": "fields.writing",
    "summarize": "observables.ensemble",
    "train": "training.train",
}
_NAMED = {"open": "open_fields"}

__all__ = sorted(_WHERE.keys() - {"__version__"})


def __getattr__(name: str) -> "Any":
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_WHERE[name]}"), _NAMED.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
