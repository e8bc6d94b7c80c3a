"""Some of many fields: the first, or ones chosen at random, the same everywhere."""

import numpy as np
from numpy.typing import NDArray

from skild_physics.files import InputError


def chosen(count: int, samples: int | None, choose_seed: int | None) -> NDArray[np.int64]:
    """Numbers of the fields that are taken, in order; with a seed a random subset.

    It depends on ``count``, ``samples`` and the seed alone: the fields with the smallest of
    ``count`` random numbers. More than there are stand for all.

    Args:
        count: of the fields there are.
        samples: how many are taken; None: all.
        choose_seed: of the choice; None: the first are taken.

    Raises:
        InputError: fewer than one, or a seed that is out of range or has nothing to choose.
    """
    if samples is not None and samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}")
    if choose_seed is None:
        return np.arange(count)[:samples]
    if samples is None:
        raise InputError("`choose_seed` goes with `samples`, how many are chosen")
    if choose_seed < 0:
        raise InputError(f"`choose_seed` must be at least 0, got {choose_seed}")
    keys = np.random.SeedSequence(choose_seed).generate_state(count, np.uint64)
    return np.sort(np.argsort(keys, kind="stable")[:samples])
