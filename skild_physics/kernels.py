"""How numerical kernels are compiled."""

from collections.abc import Callable
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
            return njit(cache=True, **options)(function)
        except RuntimeError:
            # neither the package nor the user's home can be written
            return njit(**options)(function)

    return compiled
