"""Critical Ising lattices from Wolff's cluster algorithm."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skild_physics.data_gen.ensemble import generate
    from skild_physics.data_gen.ising import generate_ising
    from skild_physics.data_gen.parameters import IsingParameters

__all__ = ["IsingParameters", "generate", "generate_ising"]

# imported when they are asked for: Numba and xarray take a second
_HOMES = {"IsingParameters": "parameters", "generate": "ensemble", "generate_ising": "ising"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
