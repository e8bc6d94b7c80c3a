"""How numerical kernels are compiled."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numba import config, njit

PLAIN: bool = config.DISABLE_JIT  # type: ignore[attr-defined]
"""Whether kernels run as plain Python: NUMBA_DISABLE_JIT is set."""


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Numba's njit with its options, cached on disk wherever a folder for that can be written.

    If PLAIN, the function stays Python and gives the same numbers.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        if PLAIN:
            # as compiled integers do, those of NumPy are to wrap around without a warning
            return np.errstate(over="ignore")(function)
        try:
            made = njit(cache=True, **options)(function)
        except RuntimeError:
            # neither the package nor the user's home can be written
            made = njit(**options)(function)
        return _keeping_threads(made) if options.get("parallel") else made

    return compiled


def _keeping_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """Afterwards torch, which may share Numba's OpenMP, has as many threads as before."""

    @wraps(function)
    def called(*arguments: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None:
            return function(*arguments)
        threads = torch.get_num_threads()
        try:
            return function(*arguments)
        finally:
            torch.set_num_threads(threads)

    return called
