"""Whether fields are such as a model or a process is for: their variance, scale by scale.

With X the modes of the fields and S0 the variance that is expected of these, the ratio of an octave
of wavenumbers is R = <X^2 / S0>, over its modes, the channels and the fields; it is 1 for the
fields that S0 is of. A model meets held-out fields of its own kind, whose R scatters: as much as
their own do, over sqrt(n), so of few fields only gross differences tell. The mean of the fields,
k = 0, is left to the network.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skild_physics import kspace
from skild_physics.files import InputError

CHECKED = 64
"""Given fields that are looked at, the first ones."""
SAME, SIGMAS, MIN_ITEMS = np.log(2), 5, 16
"""|ln R| that says nothing, beside so many of its standard errors, of so many fields."""
GROSS, IMPOSSIBLE = 20, 100
"""Variance over what is expected, of few fields that differ, and of any that cannot be meant."""
EMPTY = 1e-9
"""S0 over its mean of modes that are not compared."""
UNIT = ({"spin"}, {"grey"}, {"red", "green", "blue"})
"""Channels of fields in [-1, 1]."""
NO_SPINS = 0.25
"""Mean distance from +-1 that fields which models made of spins do not have."""
LARGEST = 10.0
"""Values that no coarse-graining makes of fields in [-1, 1]."""


class Ratios(NamedTuple):
    """R of each octave that has modes, the largest scale first, and that of the whole variance.

    The standard errors of R over R, shape (octave,), are infinite from fewer than 16 items.
    """

    R: NDArray[np.float64]
    stderr: NDArray[np.float64]
    overall: float

    @property
    def differ(self) -> bool:
        """Whether the fields are not such as S0 is of."""
        if np.isinf(self.stderr).any():
            return self.overall > GROSS
        with np.errstate(divide="ignore"):
            away = np.abs(np.log(self.R))
        return bool((away > SAME + SIGMAS * self.stderr).any())

    def __str__(self) -> str:
        return (
            f"its variance is {self.R[0]:.2g} times theirs at the largest scales, "
            f"{self.R[-1]:.2g} times at the smallest"
        )


def variance_ratios(
    fields: NDArray[np.floating],
    S0: NDArray[np.float64],
    basis: kspace.Basis,
    items: NDArray[np.int64] | None = None,
) -> Ratios:
    """How the variance of fields compares with what is expected, scale by scale.

    Args:
        fields: shape (sample, channel, M, M).
        S0: variance of every orthonormal mode, shape (M, M).
        basis: of the modes.
        items: which fields belong together (patches of one picture), shape (sample,); None: none.
    """
    k = kspace.wavenumbers(S0.shape[-1], basis)
    used = (S0 / S0.mean() > EMPTY) & (k > 0)
    power = np.square(kspace.forward(fields.astype(np.float64), basis)).mean(axis=1)[:, used]
    octave = np.floor(np.log2(k[used] / np.pi)).astype(int)
    whitened = power / S0[used]
    of_field = np.stack([whitened[:, octave == each].mean(axis=1) for each in np.unique(octave)])
    items = np.arange(len(fields)) if items is None else np.unique(items, return_inverse=True)[1]
    counts = np.bincount(items)
    of_item = np.stack([np.bincount(items, row) for row in of_field]) / counts
    R, n = of_field.mean(axis=1), len(counts)
    stderr = np.full(len(R), np.inf)
    if n >= MIN_ITEMS:
        stderr = of_item.std(axis=1, ddof=1) / np.sqrt(n) / np.maximum(R, np.finfo(float).tiny)
    return Ratios(R, stderr, float(power.mean(axis=0).sum() / S0[used].sum()))


def check_range(fields: NDArray[np.floating], channels: tuple[str, ...], name: str) -> None:
    """Refuse values that a model of fields in [-1, 1] cannot be meant for.

    Raises:
        InputError: there are such.
    """
    largest = float(np.abs(fields).max())
    if set(channels) in UNIT and largest > LARGEST:
        raise InputError(
            f"{name}: values reach {largest:.4g}, and the model was trained on fields in [-1, 1]; "
            "say with `data_range` what is to be mapped there"
        )
