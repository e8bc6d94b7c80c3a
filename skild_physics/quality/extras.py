"""Packages that only some metrics need, and a line that says how to install what is missing."""

from importlib import import_module
from types import ModuleType

import torch

from skild_physics.files import InputError

_EXTRAS = {
    "torch_fidelity": ("torch-fidelity", "images", ""),
    "lpips": ("lpips", "images", ""),
    "pyiqa": ("pyiqa", "iqa", " (its licence forbids commercial use)"),
}
# a library takes its operators along when it is collected
_torchvision = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def import_extra(module: str, metric: str) -> ModuleType:
    """A module of an optional package.

    Args:
        module: its name; the package is torch_fidelity, lpips or pyiqa.
        metric: what needs it.

    Raises:
        InputError: the package is missing or does not work here.
    """
    name = module.partition(".")[0]
    package, extra, licence = _EXTRAS[name]
    try:
        _import_torchvision()
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        also = f", which needs {missing}" if missing != name else ""
        raise InputError(
            f"{metric} needs the package {package}{also}: "
            f"pip install 'skild_physics[{extra}]'{licence}"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{metric}: the package {package} does not work here ({reason})") from None


def _import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not load.

    These are built for one kind of torch, CUDA or CPU. With the other kind they are undefined, and
    registering two of them stops the import; no network used here calls any.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor boxes, Tensor scores, float iou) -> Tensor"
            _torchvision.define(schema)  # type: ignore[no-untyped-call]
        import_module("torchvision")
